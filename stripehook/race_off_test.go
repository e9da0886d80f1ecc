//go:build !race

package stripehook_test

// samples is how many random cases each engine gets.
const samples = 300
