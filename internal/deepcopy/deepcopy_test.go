package deepcopy_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/tenantdb/tenantdb/internal/deepcopy"
)

func TestObject_copiesEqualValues(t *testing.T) {
	for name, v := range map[string]map[string]any{
		"nil":     nil,
		"empty":   {},
		"scalars": {"s": "x", "b": true, "f": 1.5, "n": json.Number("7"), "i": 7, "nil": nil},
		"nested":  {"o": map[string]any{"a": []any{map[string]any{"x": "y"}, nil}}},
		"nils":    {"o": map[string]any(nil), "a": []any(nil), "m": map[string]int(nil), "s": []int(nil)},
		"empties": {"o": map[string]any{}, "a": []any{}, "m": map[string]int{}, "s": []int{}, "z": [0]int{}},
		"typed":   {"m": map[string][]string{"a": {"b"}}, "s": [][]byte{{1, 2}}, "array": [2][]int{{1}, {2}}},
		"any":     {"s": []map[string]any{{"a": nil, "b": []any{1}}}, "m": map[int]any{1: nil, 2: "x"}},
	} {
		if got := deepcopy.Object(v); !reflect.DeepEqual(got, v) {
			t.Errorf("%s: Object(%#v) = %#v", name, v, got)
		}
	}
}

func TestObject_sharesNoMapsSlicesOrArrays(t *testing.T) {
	fresh := func() map[string]any {
		return map[string]any{
			"o": map[string]any{"k": "v"}, "a": []any{"v"}, "m": map[string]string{"k": "v"},
			"s": []string{"v"}, "array": [1][]string{{"v"}}, "deep": []any{map[string][]any{"k": {"v"}}},
		}
	}
	v := fresh()
	own := deepcopy.Object(v)
	own["o"].(map[string]any)["k"] = "changed"
	own["a"].([]any)[0] = "changed"
	own["m"].(map[string]string)["k"] = "changed"
	own["s"].([]string)[0] = "changed"
	own["array"].([1][]string)[0][0] = "changed"
	own["deep"].([]any)[0].(map[string][]any)["k"][0] = "changed"
	own["new"] = true
	if want := fresh(); !reflect.DeepEqual(v, want) {
		t.Errorf("changing the copy made the original %v, want %v", v, want)
	}
}

func TestObject_copiesPointersAsTheyAre(t *testing.T) {
	n := new(int)
	if got := deepcopy.Object(map[string]any{"p": n}); got["p"] != any(n) {
		t.Errorf("the pointer became %v", got["p"])
	}
}

func TestObject_stopsAtMaxDepth(t *testing.T) {
	v := map[string]any{"a": "b"}
	v["self"] = v
	depth := 0
	for own := deepcopy.Object(v); own != nil; own, _ = own["self"].(map[string]any) {
		if own["a"] != "b" {
			t.Fatalf("level %d lacks a member: %v", depth, own["a"])
		}
		depth++
	}
	if depth != deepcopy.MaxDepth+1 {
		t.Errorf("the copy has %d levels, want %d", depth, deepcopy.MaxDepth+1)
	}
}

func TestObject_stopsAtMaxValues(t *testing.T) {
	list := make([]any, deepcopy.MaxValues+10)
	for i := range list {
		list[i] = []any{}
	}
	own := deepcopy.Object(map[string]any{"list": list})["list"].([]any)
	copied := 0
	for _, element := range own {
		if element != nil {
			copied++
		}
	}
	if len(own) != len(list) || copied != deepcopy.MaxValues-1 { // the list itself counts
		t.Errorf("%d of %d elements are copied, want %d", copied, len(own), deepcopy.MaxValues-1)
	}
}
