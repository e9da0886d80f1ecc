//go:build !race

package fleet_test

// underRace reports whether the race detector is compiled in.
const underRace = false
