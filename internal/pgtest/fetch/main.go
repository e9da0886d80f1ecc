// Fetch downloads PostgreSQL servers for tests: go run ./internal/pgtest/fetch 13 18. They stay in a cache
// outside the repository.
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func main() {
	if len(os.Args) < 2 {
		fail("give major versions, such as 13 18")
	}
	for _, text := range os.Args[1:] {
		major, err := strconv.Atoi(text)
		if err != nil {
			fail(err)
		}
		dir, err := pgtest.Fetch(major)
		if err != nil {
			fail(fmt.Sprintf("PostgreSQL %d: %v", major, err))
		}
		fmt.Printf("PostgreSQL %d: %s\n", major, dir)
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, "fetch:", why)
	os.Exit(1)
}
