package tenantdb_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/tenantdb/tenantdb"
)

// An observer that prints each decision.
func ExampleObserver() {
	shop := openShop()
	defer shop.close()
	shop.config.Logger = slog.New(slog.DiscardHandler)
	shop.config.Observer = &tenantdb.Observer{
		DecisionEnd: func(_ context.Context, info tenantdb.DecisionEndInfo) {
			fmt.Printf("%s: code %q, reason %q\n", info.Operation, info.Code, info.Reason)
		},
	}
	mw, err := tenantdb.New(shop.config)
	check(err)
	defer mw.Close(context.Background())
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "welcome")
	}))
	shop.get(h, "joe", "acme")
	shop.get(h, "joe", "globex")
	// Output:
	// request: code "", reason ""
	// 200 welcome
	// request: code "not_member", reason "no_membership"
	// 403 not_member: not a member of this tenant
}
