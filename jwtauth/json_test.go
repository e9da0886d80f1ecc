package jwtauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecodeObjectDecodesAsEncodingJSONDoes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, ` { } `, `{"a":1}`, "\t{\r\n\"a\" : [ ] , \"b\":{}}\n",
		`{"a":[1,-0,0.5,1e9,1E+9,-12.25e-3,12345678901234567890]}`,
		`{"a":true,"b":false,"c":null,"d":"","e":"x"}`,
		`{"a":"\"\\\/\b\f\n\r\t\u0041\u00e9\u2028\ud83d\ude00"}`, `{"é":"日本","\u0061b":1}`,
		`{"a":{"b":{"c":[{"d":[[[]]]}]}}}`, `{"a":1e400}`, `{"sub":"x","sUb2":"y"}`,
		`{"":"empty name"}`, `{"a":"\u0000"}`, `{"a":"` + "\x7f" + `"}`,
	} {
		got, _, err := decodeObject(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if want := standardDecode(t, text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %#v, want %#v", text, got, want)
		}
	}
}

// standardDecode decodes an object as encoding/json does.
func standardDecode(t testing.TB, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("encoding/json refuses %q: %v", text, err)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("encoding/json sees more after %q", text)
	}
	return v
}

func TestDecodeObjectRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, maxDepth) + "{}" + strings.Repeat("}", maxDepth)
	for _, test := range []struct {
		text string
		want error
	}{
		{``, errJSONSyntax}, {`null`, errJSONSyntax}, {`[]`, errJSONSyntax}, {`"a"`, errJSONSyntax}, {`1`, errJSONSyntax},
		{`{`, errJSONSyntax}, {`{}}`, errJSONSyntax}, {`{} {}`, errJSONSyntax}, {`{}x`, errJSONSyntax}, {"{}\x00", errJSONSyntax},
		{`{"a"}`, errJSONSyntax}, {`{"a":}`, errJSONSyntax}, {`{"a":1,}`, errJSONSyntax}, {`{,}`, errJSONSyntax}, {`{"a" 1}`, errJSONSyntax},
		{`{a:1}`, errJSONSyntax}, {`{'a':1}`, errJSONSyntax}, {`{"a":[1,]}`, errJSONSyntax}, {`{"a":[1 2]}`, errJSONSyntax}, {`{"a":[}`, errJSONSyntax},
		{`{"a":01}`, errJSONSyntax}, {`{"a":+1}`, errJSONSyntax}, {`{"a":.5}`, errJSONSyntax}, {`{"a":1.}`, errJSONSyntax}, {`{"a":1e}`, errJSONSyntax},
		{`{"a":1e+}`, errJSONSyntax}, {`{"a":-}`, errJSONSyntax}, {`{"a":0x1}`, errJSONSyntax}, {`{"a":NaN}`, errJSONSyntax}, {`{"a":Infinity}`, errJSONSyntax},
		{`{"a":tru}`, errJSONSyntax}, {`{"a":True}`, errJSONSyntax}, {`{"a":nullx}`, errJSONSyntax},
		{`{"a":"`, errJSONSyntax}, {`{"a":"\`, errJSONSyntax}, {`{"a":"\x"}`, errJSONSyntax}, {`{"a":"\u12"}`, errJSONSyntax}, {`{"a":"\u12g4"}`, errJSONSyntax},
		{"{\"a\":\"\n\"}", errJSONSyntax}, {"{\"a\":\"\\n\x01\"}", errJSONSyntax}, {"\ufeff{}", errJSONSyntax}, {`{"a":1}//`, errJSONSyntax},
		{`{"a":"\ud83d"}`, errJSONSyntax}, {`{"a":"\ude00"}`, errJSONSyntax}, {`{"a":"\ud83d\u0041"}`, errJSONSyntax}, {`{"a":"\ud83dx"}`, errJSONSyntax},
		{`{"a":"\ude00\ud83d"}`, errJSONSyntax}, {"{\"a\":\"\xff\"}", errJSONSyntax}, {"{\"\xc3\":1}", errJSONSyntax},
		{`{"a":1,"a":1}`, errJSONDuplicate}, {`{"a":1,"\u0061":2}`, errJSONDuplicate}, {`{"b":{"a":1,"a":2}}`, errJSONDuplicate},
		{`{"b":[{"a":1,"a":2}]}`, errJSONDuplicate}, {`{"":1,"":2}`, errJSONDuplicate},
		{deep, errJSONDepth}, {`{"a":` + strings.Repeat("[", 100_000), errJSONDepth}, {strings.Repeat(`{"a":`, 100_000), errJSONDepth},
		{`{"a":[` + strings.Repeat(`{"":0},`, 400) + `0]}`, errJSONSize}, {`{"a":[` + strings.Repeat(`0,`, 1400) + `0]}`, errJSONSize},
		{`{"a":[` + strings.Repeat(`"a dozen char",`, maxTokenBytes/15-1) + `0]}`, nil},
	} {
		if v, _, err := decodeObject(test.text); !errors.Is(err, test.want) {
			t.Errorf("%.40q: %v, %v; want %v", test.text, v, err, test.want)
		}
	}
}

func TestDecodeObjectEstimatesSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`{}`: bytesPerObject, `{"a":1}`: bytesPerObject + bytesPerValue, `{"a":[]}`: bytesPerObject + bytesPerValue,
		`{"a":[1,2,{"b":null}]}`: 2*bytesPerObject + 5*bytesPerValue, `{"a":"x","b":"y"}`: bytesPerObject + 2*bytesPerValue,
	} {
		if _, n, err := decodeObject(text); err != nil || n != want {
			t.Errorf("%s: %d bytes (%v), want %d", text, n, err, want)
		}
	}
}

// TestDecodeObjectGoesAsDeepAsItSays keeps the limit from creeping below what it is said to be.
func TestDecodeObjectGoesAsDeepAsItSays(t *testing.T) {
	t.Parallel()
	text := strings.Repeat(`{"a":`, maxDepth-1) + "{}" + strings.Repeat("}", maxDepth-1)
	if _, _, err := decodeObject(text); err != nil {
		t.Error(err)
	}
	// Depth is not length: brackets side by side count once.
	if _, _, err := decodeObject(`{"a":[` + strings.Repeat("[],", 1000) + `{}]}`); err != nil {
		t.Error(err)
	}
}

func TestAmbiguousCase(t *testing.T) {
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
		members, _, err := decodeObject(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := ambiguousCase(members, registeredClaims); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
}

// TestAmbiguousCaseAgreesWithEqualFold takes the standard library's folding for the measure.
func TestAmbiguousCaseAgreesWithEqualFold(t *testing.T) {
	t.Parallel()
	names := []string{"a", "A", "k", "K", "\u212a", "s", "S", "\u017f", "σ", "ς", "Σ", "ß", "ẞ", "ss", "İ", "i", "I", "ı", "é", "É", "e\u0301", "ǆ", "ǅ", "Ǆ"}
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

// FuzzDecodeObject compares with encoding/json: what we accept it must accept, and decode alike; what it
// accepts and we refuse must have one of the reasons that decodeObject states.
func FuzzDecodeObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,"x",{"b":null}]}`, `{"a":1,"a":2}`, `{"a":"\ud83d\ude00\u0000"}`, `{"a":-1.5e+7}`, `[1]`, `{"a":"` + "\xff" + `"}`, `{"a":"\ud800"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, _, err := decodeObject(text)
		if err == nil {
			if want := standardDecode(t, text); !reflect.DeepEqual(got, want) {
				t.Fatalf("%q: %#v, want %#v", text, got, want)
			}
			return
		}
		var standard map[string]any
		if json.Unmarshal([]byte(text), &standard) != nil || standard == nil {
			return
		}
		if errors.Is(err, errJSONSyntax) && utf8.ValidString(text) && !loneSurrogate(text) {
			t.Fatalf("%q is refused for its syntax", text)
		}
		if errors.Is(err, errJSONDepth) && strings.Count(text, "[")+strings.Count(text, "{") <= maxDepth {
			t.Fatalf("%q is refused for its depth", text)
		}
		if errors.Is(err, errJSONDuplicate) && countNames(t, text) == countMembers(standard) {
			t.Fatalf("%q is refused for a duplicate", text)
		}
	})
}

// loneSurrogate reports whether encoding/json replaces half a surrogate pair when it decodes text.
func loneSurrogate(text string) bool {
	return strings.Contains(strings.ToLower(text), `\ud`)
}

// countNames counts the names as they stand in the text.
func countNames(t *testing.T, text string) (n int) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	var kinds []json.Delim
	name := false
	for {
		token, err := d.Token()
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		inObject := len(kinds) > 0 && kinds[len(kinds)-1] == '{'
		if delim, ok := token.(json.Delim); ok {
			if delim == '{' || delim == '[' {
				kinds = append(kinds, delim)
				name = delim == '{'
				continue
			}
			kinds = kinds[:len(kinds)-1]
			name = len(kinds) > 0 && kinds[len(kinds)-1] == '{'
			continue
		}
		if inObject && name {
			n++
			name = false
			continue
		}
		name = inObject
	}
}

// countMembers counts the members that are left after decoding.
func countMembers(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, element := range v {
			n += countMembers(element)
		}
	case []any:
		for _, element := range v {
			n += countMembers(element)
		}
	}
	return n
}
