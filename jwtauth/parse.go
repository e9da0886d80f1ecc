package jwtauth

import (
	"strings"

	"github.com/tenantdb/tenantdb/internal/strictjson"
)

// unverified is a decoded token. Nothing in it may be trusted yet.
type unverified struct {
	header    header
	algorithm *algorithm
	claims    *claimSet
	signed    string // the first two segments
	signature []byte
}

// parse decodes a token. It verifies nothing.
func parse(token string) (*unverified, error) {
	h, err := parseHeader(token)
	if err != nil {
		return nil, err
	}
	t := &unverified{header: h, algorithm: algorithms[h.algorithm]}
	if t.algorithm == nil {
		return nil, errAlgorithm
	}
	first, last := strings.IndexByte(token, '.'), strings.LastIndexByte(token, '.')
	payload, err := segments.DecodeString(token[first+1 : last])
	if err != nil {
		return nil, errForm
	}
	if t.claims, err = parseClaims(string(payload)); err != nil {
		return nil, errClaims
	}
	t.signed = token[:last]
	if t.signature, err = segments.DecodeString(token[last+1:]); err != nil {
		return nil, errForm
	}
	return t, nil
}

// maxDecodedBytes bounds the memory that one text's values take beside it: anybody can send a token. A token
// of maxTokenBytes that is full of strings of a dozen bytes stays within it.
const maxDecodedBytes = 128 << 10

// decodeObject decodes a JSON object and estimates the bytes that it takes beside the text.
func decodeObject(text string) (members map[string]any, size int, err error) {
	return strictjson.Decode(text, strictjson.Options{MaxSize: maxDecodedBytes})
}
