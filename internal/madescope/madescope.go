// Package madescope is how package tenantdbtest puts a Scope into a context. Only this module can import it,
// so no program does so by mistake.
package madescope

// Key is the context key of a *tenantdb.Scope that a test has made.
type Key struct{}
