package coherent

// The planted bugs. The property test must fail with each of them (see TestPlantedBugsAreCaught).
const (
	stampAfterLoad     = "stamp-after-load"     // the sequence is read after the question was asked
	flightIgnoresStamp = "flight-ignores-stamp" // who joins a load takes its answer, whatever changed since
	pollTimeAtEnd      = "poll-time-at-end"     // a look counts from its end
	ceilingIgnored     = "ceiling-ignored"      // MaxStaleIfDown doesn't bound
	frontKeepsEvicted  = "front-keeps-evicted"  // an evicted entry is still found
	frontKeepsReplaced = "front-keeps-replaced" // a new answer doesn't replace the one that is found without the lock

	keptOutlivesEvicted  = "kept-outlives-evicted"  // an entry that somebody kept is served although it was evicted
	keptOutlivesReplaced = "kept-outlives-replaced" // an entry that somebody kept is served although another took its place
	resetForgotten       = "reset-forgotten"        // a Reset ends nothing
	othersForgotten      = "others-forgotten"       // a change of a further tenant ends nothing
	namesForgotten       = "names-forgotten"        // what was unknown stays so, although a user or a tenant may have come
)
