//go:build race

package stripehook_test

// samples is how many random cases each engine gets: fewer where the race detector watches.
const samples = 75
