package pgdb

import "testing"

// FuzzSession_notesTheSameHoweverMessagesAreCut reads a stream in one piece and in two.
func FuzzSession_notesTheSameHoweverMessagesAreCut(f *testing.F) {
	f.Add([]byte("C\x00\x00\x00\x08SET\x00Z\x00\x00\x00\x05I"), 3)
	f.Add([]byte("D\x00\x00\x00\x06\x00\x00C\x00\x00\x00\x0dSELECT 1\x00"), 1)
	f.Add([]byte("C\x00\x00\x00\x0dSELECT 1\x00C\x00\x00\x00\x0bLISTEN\x00"), 7)
	f.Add([]byte("C\xff\xff\xff\xff\x00"), 2)
	f.Add([]byte("C\x00\x00\x00\x00C\x00\x00\x00\x08SET\x00"), 2)
	f.Fuzz(func(t *testing.T, stream []byte, at int) {
		at = min(max(at, 0), len(stream))
		var whole, cut session
		whole.noteReceived(stream)
		cut.noteReceived(stream[:at])
		cut.noteReceived(stream[at:])
		if whole.changed != cut.changed || whole.mustClose != cut.mustClose {
			t.Errorf("in one piece: changed %v, mustClose %v; cut at %d: %v, %v",
				whole.changed, whole.mustClose, at, cut.changed, cut.mustClose)
		}
	})
}
