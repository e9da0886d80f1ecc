//go:build !mutations

package coherent

// mutation names the planted bug that is switched on: none, outside the build that proves that the tests find
// them.
const mutation = ""
