package tenantdb

// What tests of package tenantdb_test need from inside.
var VectorDir = vectorDir

// Watched tells what a session notes of what its server sends.
func Watched(pieces ...[]byte) (changed, spoiled bool) {
	var s session
	for _, p := range pieces {
		s.watch(p)
	}
	return s.changed, s.spoiled
}
