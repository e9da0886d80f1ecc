package jwtauth

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// FuzzParse checks that golang-jwt's strict parser takes every token that ours takes, and reads the same in
// it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"sub":"a","exp":1}`, `{"n":1.5e3,"a":[null,{"b":"\u00e9"}]}`,
		`{"sub":"a","SUB":"b"}`, `null`, `{"a":{}} `} {
		f.Add(encode(`{"alg":"HS256","typ":"JWT"}`) + "." + encode(seed) + ".AAAA")
	}
	f.Add(encode(`{"alg":"HS256"}`) + ".e30.AB")
	parser := jwt.NewParser(jwt.WithStrictDecoding(), jwt.WithJSONNumber())
	f.Fuzz(func(t *testing.T, token string) {
		got, err := parse(token)
		if err != nil {
			if !errors.Is(err, tenantdb.ErrInvalidCredential) {
				t.Fatalf("%q: %v", token, err)
			}
			return
		}
		want := jwt.MapClaims{}
		theirs, parts, err := parser.ParseUnverified(token, want)
		if err != nil {
			t.Fatalf("%q: golang-jwt refuses it: %v", token, err)
		}
		signature, err := parser.DecodeSegment(parts[2])
		if err != nil || string(signature) != string(got.signature) || got.signed != parts[0]+"."+parts[1] {
			t.Fatalf("%q: another signature: %v", token, err)
		}
		if theirs.Method.Alg() != got.algorithm.name ||
			!reflect.DeepEqual(map[string]any(want), got.claims.members) {
			a, _ := json.Marshal(want)
			b, _ := json.Marshal(got.claims.members)
			t.Fatalf("%q: %s, golang-jwt reads %s", token, b, a)
		}
	})
}
