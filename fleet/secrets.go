package fleet

import (
	"fmt"
	"io"
)

// Format implements [fmt.Formatter]. For every verb it writes the server with a masked password, and nothing
// else.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "fleet.Config{"+c.Server.String()+"}")
}
