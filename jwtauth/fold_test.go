package jwtauth

import (
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/internal/strictjson"
)

func TestAmbiguousCase_foldsLikeDecodersThatIgnoreCase(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`{"sub":1,"tenant_id":2}`:               false,
		`{"Name":1,"tenantId":2}`:               false,
		`{"é":1,"ß":2,"日":3}`:                   false,
		`{"tenant_id":1,"TENANT_ID":2}`:         true,
		`{"TENANT_ID":1,"Tenant_Id":2}`:         true,
		`{"É":1,"é":2}`:                         true,
		`{"ta\u017fk":1,"task":2}`:              true, // long s
		`{"\u212a":1,"k":2}`:                    true, // Kelvin sign
		`{"\u212a":1,"K":2}`:                    true,
		`{"\u03a3":1,"\u03c2":2}`:               true, // Σ and final ς
		`{"SUB":1}`:                             true,
		`{"\u017fub":1}`:                        true,
		`{"sub":1,"Exp":2}`:                     true,
		`{"iss":1,"i\u017fs":2}`:                true,
		`{"nested":{"A":1,"a":2,"SUB":"fine"}}`: false,
	} {
		members, _, err := strictjson.Decode(text, strictjson.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := ambiguousCase(members, registeredClaims); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
}

// The standard library's folding is the measure.
func TestAmbiguousCase_agreesWithEqualFold(t *testing.T) {
	t.Parallel()
	names := []string{"a", "A", "k", "K", "\u212a", "s", "S", "\u017f", "σ", "ς", "Σ", "ß", "ẞ", "ss", "İ",
		"i", "I", "ı", "é", "É", "e\u0301", "ǆ", "ǅ", "Ǆ"}
	for _, one := range names {
		for _, other := range names {
			if one == other {
				continue
			}
			got := ambiguousCase(map[string]any{one: 1, other: 2}, nil)
			if want := strings.EqualFold(one, other); got != want {
				t.Errorf("%q and %q: %t, want %t", one, other, got, want)
			}
		}
	}
}
