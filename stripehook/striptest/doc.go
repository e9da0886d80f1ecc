// Package striptest compares stripehook with Stripe's own library. It is a module of its own, so that nobody
// else needs that.
package striptest
