// Command chaos tries a product that uses tenantdb while servers, processes and tenants' databases fail, and prints a table. From the
// repository's root:
//
//	go run -C chaos . -seed 3
//
// It needs PostgreSQL's binaries (Debian: apt-get install postgresql) and Linux. See docs/chaos.md.
package main

import (
	"os"

	"github.com/tenantdb/tenantdb/chaos/app"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == app.Argument {
		os.Exit(app.Main(os.Args[2:]))
	}
}
