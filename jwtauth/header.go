package jwtauth

import (
	"encoding/base64"
	"slices"
	"strings"
)

const (
	// maxTokenBytes bounds a token before it is decoded. Hostile JSON takes forty times its size.
	maxTokenBytes = 16 << 10
	// maxKeyIDBytes bounds a kid, in a token and in a key set.
	maxKeyIDBytes = 256
)

// segments decodes a token's segments and the numbers of a JWK. It accepts only one spelling of each.
var segments = base64.RawURLEncoding.Strict()

// header is what the JOSE header of a token says (RFC 7515, section 4), unverified.
type header struct {
	members   map[string]any
	algorithm string
	tokenType string
	hasType   bool
	keyID     string
	hasKeyID  bool
}

// registeredHeaders are the names in a header that we use or refuse.
var registeredHeaders = append([]string{"alg", "typ", "kid"}, refusedHeaders...)

// refusedHeaders are parameters whose mere presence is refused. crit and b64 name extensions that we don't
// understand (RFC 7515, section 4.1.11; RFC 7797, section 7), zip and cty announce a payload other than plain
// claims, and the rest bring a key along: a key from a token proves nothing, and an address of one makes us
// call whom the sender chose.
var refusedHeaders = []string{"crit", "b64", "zip", "cty", "jwk", "jku", "x5u", "x5c"}

// parseHeader checks the length and the form of a token and decodes its header. It verifies nothing.
func parseHeader(token string) (header, error) {
	segment, ok := headerSegment(token)
	if !ok {
		return header{}, errForm
	}
	text, err := segments.DecodeString(segment)
	if err != nil {
		return header{}, errForm
	}
	members, _, err := decodeObject(string(text))
	if err != nil || ambiguousCase(members, registeredHeaders) {
		return header{}, errHeader
	}
	return readHeader(members)
}

// headerSegment returns the first of a compact serialization's three segments (RFC 7515, section 7.1). No
// segment may be empty, and each has characters of base64url only. A decoder that skips line breaks would
// give one signature many spellings.
func headerSegment(token string) (segment string, ok bool) {
	var dots [2]int
	n, start := 0, 0
	for i := 0; i < len(token); i++ {
		if isBase64URL(token[i]) {
			continue
		}
		if token[i] != '.' || n == len(dots) || i == start {
			return "", false
		}
		dots[n], start = i, i+1
		n++
	}
	if n != len(dots) || start == len(token) {
		return "", false
	}
	return token[:dots[0]], true
}

func isBase64URL(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// readHeader reads a decoded header. It refuses the parameters that must not be ignored.
func readHeader(members map[string]any) (h header, err error) {
	h.members = members
	for _, name := range refusedHeaders {
		if _, present := members[name]; present {
			return header{}, errHeader
		}
	}
	var ok bool
	if h.algorithm, ok = members["alg"].(string); !ok {
		return header{}, errHeader
	}
	if typ, present := members["typ"]; present {
		if h.tokenType, ok = typ.(string); !ok {
			return header{}, errType
		}
		h.hasType = true
	}
	if kid, present := members["kid"]; present {
		if h.keyID, ok = kid.(string); !ok || len(h.keyID) > maxKeyIDBytes {
			return header{}, errHeader
		}
		h.hasKeyID = true
	}
	return h, nil
}

// hasTypeOf reports whether the token's type is one of types. The empty string in types stands for no type.
func (h header) hasTypeOf(types []string) bool {
	if !h.hasType {
		return slices.Contains(types, "")
	}
	name := mediaType(h.tokenType)
	return name != "" && slices.Contains(types, name)
}

// mediaType returns one spelling for a typ value. Case does not matter, and "application/" may be omitted if
// no other slash follows (RFC 7515, section 4.1.9).
func mediaType(typ string) string {
	typ = strings.ToLower(typ)
	if rest, ok := strings.CutPrefix(typ, "application/"); ok && !strings.Contains(rest, "/") {
		return rest
	}
	return typ
}
