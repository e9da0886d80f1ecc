package hostdb_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestSecret_noVerbShowsAModels(t *testing.T) {
	user := &hostdb.GlobalUser{ID: "u", PasswordHash: "c4nary"}
	tenant := &hostdb.TenantCatalog{ID: "t", DBURL: "c4nary"}
	type nested struct {
		User   *hostdb.GlobalUser
		Tenant hostdb.TenantCatalog
	}
	for _, v := range []any{user, *user, tenant, *tenant, nested{user, *tenant}, &nested{user, *tenant},
		[]*hostdb.TenantCatalog{tenant}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%q", "%x", "%t", "%6.2f"} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "c4nary") ||
				strings.Contains(text, fmt.Sprintf("%x", "c4nary")) {
				t.Errorf("%s of %T shows the secret: %s", verb, v, text)
			}
		}
	}
	if text := fmt.Sprintf("%+v", tenant); !strings.Contains(text, "ID:t") ||
		!strings.Contains(text, "[secret]") {
		t.Errorf("%%+v = %s", text)
	}
}
