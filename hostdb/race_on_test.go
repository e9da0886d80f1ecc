//go:build race

package hostdb_test

// underRace reports whether the race detector is compiled in.
const underRace = true
