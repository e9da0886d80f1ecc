package strictjson

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

// decode is Decode with the bound that tokens have.
func decode(text string) (map[string]any, int, error) {
	return Decode(text, Options{MaxSize: 128 << 10})
}

func TestDecode_agreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, ` { } `, `{"a":1}`, "\t{\r\n\"a\" : [ ] , \"b\":{}}\n",
		`{"a":[1,-0,0.5,1e9,1E+9,-12.25e-3,12345678901234567890]}`,
		`{"a":true,"b":false,"c":null,"d":"","e":"x"}`,
		`{"a":"\"\\\/\b\f\n\r\t\u0041\u00e9\u2028\ud83d\ude00"}`, `{"é":"日本","\u0061b":1}`,
		`{"a":{"b":{"c":[{"d":[[[]]]}]}}}`, `{"a":1e400}`, `{"sub":"x","sUb2":"y"}`,
		`{"":"empty name"}`, `{"a":"\u0000"}`, `{"a":"` + "\x7f" + `"}`,
	} {
		got, _, err := decode(text)
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

func TestDecode_refuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, MaxDepth) + "{}" + strings.Repeat("}", MaxDepth)
	for _, test := range []struct {
		text string
		want error
	}{
		{``, ErrSyntax}, {`null`, ErrSyntax}, {`[]`, ErrSyntax}, {`"a"`, ErrSyntax}, {`1`, ErrSyntax},
		{`{`, ErrSyntax}, {`{}}`, ErrSyntax}, {`{} {}`, ErrSyntax}, {`{}x`, ErrSyntax}, {"{}\x00", ErrSyntax},
		{`{"a"}`, ErrSyntax}, {`{"a":}`, ErrSyntax}, {`{"a":1,}`, ErrSyntax}, {`{,}`, ErrSyntax},
		{`{"a" 1}`, ErrSyntax},
		{`{a:1}`, ErrSyntax}, {`{'a':1}`, ErrSyntax}, {`{"a":[1,]}`, ErrSyntax}, {`{"a":[1 2]}`, ErrSyntax},
		{`{"a":[}`, ErrSyntax},
		{`{"a":01}`, ErrSyntax}, {`{"a":+1}`, ErrSyntax}, {`{"a":.5}`, ErrSyntax}, {`{"a":1.}`, ErrSyntax},
		{`{"a":1e}`, ErrSyntax},
		{`{"a":1e+}`, ErrSyntax}, {`{"a":-}`, ErrSyntax}, {`{"a":0x1}`, ErrSyntax}, {`{"a":NaN}`, ErrSyntax},
		{`{"a":Infinity}`, ErrSyntax},
		{`{"a":tru}`, ErrSyntax}, {`{"a":True}`, ErrSyntax}, {`{"a":nullx}`, ErrSyntax},
		{`{"a":"`, ErrSyntax}, {`{"a":"\`, ErrSyntax}, {`{"a":"\x"}`, ErrSyntax}, {`{"a":"\u12"}`, ErrSyntax},
		{`{"a":"\u12g4"}`, ErrSyntax},
		{"{\"a\":\"\n\"}", ErrSyntax}, {"{\"a\":\"\\n\x01\"}", ErrSyntax}, {"\ufeff{}", ErrSyntax},
		{`{"a":1}//`, ErrSyntax},
		{`{"a":"\ud83d"}`, ErrSyntax}, {`{"a":"\ude00"}`, ErrSyntax}, {`{"a":"\ud83d\u0041"}`, ErrSyntax},
		{`{"a":"\ud83dx"}`, ErrSyntax},
		{`{"a":"\ude00\ud83d"}`, ErrSyntax}, {"{\"a\":\"\xff\"}", ErrSyntax}, {"{\"\xc3\":1}", ErrSyntax},
		{`{"a":1,"a":1}`, ErrDuplicate}, {`{"a":1,"\u0061":2}`, ErrDuplicate},
		{`{"b":{"a":1,"a":2}}`, ErrDuplicate},
		{`{"b":[{"a":1,"a":2}]}`, ErrDuplicate}, {`{"":1,"":2}`, ErrDuplicate},
		{deep, ErrDepth}, {`{"a":` + strings.Repeat("[", 100_000), ErrDepth},
		{strings.Repeat(`{"a":`, 100_000), ErrDepth},
		{`{"a":[` + strings.Repeat(`{"":0},`, 400) + `0]}`, ErrSize},
		{`{"a":[` + strings.Repeat(`0,`, 1400) + `0]}`, ErrSize},
		{`{"a":[` + strings.Repeat(`"a dozen char",`, 8<<10/15-1) + `0]}`, nil},
	} {
		if v, _, err := decode(test.text); !errors.Is(err, test.want) {
			t.Errorf("%.40q: %v, %v; want %v", test.text, v, err, test.want)
		}
	}
}

func TestDecode_replacesLoneSurrogatesIfToldSo(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"a":"\ud83d"}`, `{"a":"\ude00x"}`, `{"a":"\ud83d\u0041"}`, `{"a":"\ud83d\ud83d\ude00"}`,
		`{"a":"\ud83d\n"}`,
	} {
		got, _, err := Decode(text, Options{LoneSurrogates: true})
		if want := standardDecode(t, text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %#v (%v), want %#v", text, got, err, want)
		}
	}
}

func TestDecode_estimatesTheSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`{}`: bytesPerObject, `{"a":1}`: bytesPerObject + bytesPerValue, `{"a":[]}`: bytesPerObject +
			bytesPerValue,
		`{"a":[1,2,{"b":null}]}`: 2*bytesPerObject + 5*bytesPerValue, `{"a":"x","b":"y"}`: bytesPerObject +
			2*bytesPerValue,
	} {
		if _, n, err := decode(text); err != nil || n != want {
			t.Errorf("%s: %d bytes (%v), want %d", text, n, err, want)
		}
	}
}

// The limit must not creep below what it is said to be.
func TestDecode_acceptsMaxDepth(t *testing.T) {
	t.Parallel()
	text := strings.Repeat(`{"a":`, MaxDepth-1) + "{}" + strings.Repeat("}", MaxDepth-1)
	if _, _, err := decode(text); err != nil {
		t.Error(err)
	}
	// Depth is not length: brackets side by side count once.
	if _, _, err := decode(`{"a":[` + strings.Repeat("[],", 1000) + `{}]}`); err != nil {
		t.Error(err)
	}
}

// FuzzDecode compares with encoding/json. It must accept what Decode accepts, and decode it alike. What only
// encoding/json accepts must be refused for a reason that Decode states.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,"x",{"b":null}]}`, `{"a":1,"a":2}`,
		`{"a":"\ud83d\ude00\u0000"}`, `{"a":-1.5e+7}`, `[1]`, `{"a":"` + "\xff" + `"}`, `{"a":"\ud800"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, _, err := decode(text)
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
		if errors.Is(err, ErrSyntax) && utf8.ValidString(text) && !loneSurrogate(text) {
			t.Fatalf("%q is refused for its syntax", text)
		}
		if errors.Is(err, ErrDepth) && strings.Count(text, "[")+strings.Count(text, "{") <= MaxDepth {
			t.Fatalf("%q is refused for its depth", text)
		}
		if errors.Is(err, ErrDuplicate) && countNames(t, text) == countMembers(standard) {
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
