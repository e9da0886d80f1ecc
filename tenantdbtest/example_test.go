package tenantdbtest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func ExampleNew() {
	test := func(t *testing.T) {
		k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes})
		acme, globex := k.Tenant("acme"), k.Tenant("globex")
		ann := k.User("ann")
		k.Member(ann, acme, "admin")

		h := newRouter(k.Middleware) // the program's own routes
		k.Do(h, k.Request(ann, acme, "POST", "/notes", strings.NewReader("buy milk")))
		response := k.Do(h, k.Request(ann, acme, "GET", "/notes", nil))
		if response.Code != http.StatusOK || response.Body.String() != "buy milk\n" {
			t.Errorf("%d %s", response.Code, response.Body)
		}
		if response := k.Do(h, k.Request(ann, globex, "GET", "/notes", nil)); response.Code != 403 {
			t.Errorf("a stranger got %d", response.Code)
		}
	}
	fmt.Println(testing.RunTests(func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "TestNotes", F: test}}))
	// Output: true
}
