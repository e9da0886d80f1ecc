package fleet

import (
	"fmt"
	"io"
)

// Format implements fmt.Formatter: whatever the verb, it writes the server's mask, and nothing else.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "fleet.Config{"+c.Server.String()+"}")
}
