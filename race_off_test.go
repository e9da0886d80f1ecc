//go:build !race

package tenantdb_test

// underRace reports whether the race detector is compiled in.
const underRace = false
