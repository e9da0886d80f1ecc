package stripehook

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Whatever the header: what is accepted has one time, in one spelling, and a signature; nothing but a MAC of
// the secret passes.
func FuzzSignatureHeader(f *testing.F) {
	for _, seed := range []string{"", "t=1,v1=00",
		"t=1492774577,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd,v0=6f",
		"t=1,t=2,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd", "t=-1", "v1=a=b",
		",,,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		s, err := parseSignature(header)
		if err != nil {
			return
		}
		again, err := time.Unix(s.at.Unix(), 0), s.checkTime(s.at, 0)
		if err != nil || !again.Equal(s.at) || len(s.macs) == 0 || len(s.macs) > maxSignatures ||
			len(header) > maxHeader {
			t.Errorf("%q: %+v, %v", header, s, err)
		}
		if s.stamp[0] == '0' || s.check([]string{"a secret that no seed is signed with"},
			[]byte(header)) == nil {
			t.Errorf("%q: %+v", header, s)
		}
	})
}

// Whatever the body: what is accepted can be stored, is a part of what encoding/json accepts, and is about
// what a column takes.
func FuzzEvent(f *testing.F) {
	for _, history := range Histories {
		for _, e := range history {
			f.Add(e.Body("sub_1", tenantID))
		}
	}
	f.Add([]byte(`{"id":"evt_1","type":"customer.subscription.updated","created":1,` +
		`"data":{"object":{"id":"s","items":{"data":[{"price":{"id":"p"}}]}}}}`))
	f.Add([]byte(`{"id":"evt_1","type":"checkout.session.completed","created":1,` +
		`"data":{"object":{"id":"s","mode":"payment"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := parseEvent(body)
		if err != nil {
			return
		}
		if !json.Valid(body) || !validName(e.id) || !validName(e.kind) || len(e.id) > maxID {
			t.Fatalf("accepted: %q", body)
		}
		c, err := e.change()
		if err != nil || !e.known() {
			return
		}
		if c.tenant != "" && !hostdb.ValidID(c.tenant) || c.user != "" && !hostdb.ValidID(c.user) ||
			c.stripeSub != "" && !validName(c.stripeSub) {
			t.Fatalf("%q names %+v", body, c)
		}
		if c.state == nil {
			return
		}
		row := *newRow(c)
		at := positionOf(e, c.state.status)
		at.mark(&row)
		c.state.write(&row, nil, position{})
		if row.Status == "" || len(row.Status) > 32 || row.AmountCents < 0 || row.PlanTier == "" ||
			len(row.PlanTier) > 64 || reached(&row) != at {
			t.Fatalf("%q becomes %+v", body, row)
		}
	})
}
