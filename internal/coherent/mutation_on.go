//go:build mutations

package coherent

import "os"

// mutation names the planted bug that is switched on.
var mutation = os.Getenv("TENANTDB_MUTATION")
