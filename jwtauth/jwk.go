package jwtauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// maxKeys bounds a JWK set.
const maxKeys = 1000

// errNotKeySet is returned by parseJWKS for a text that is no JWK set (RFC 7517, section 5).
var errNotKeySet = errors.New(`not a JWK set: an object with an array "keys" (RFC 7517, section 5)`)

// parsedKeys is what we read from a JWK set.
type parsedKeys struct {
	set *keySet
	// skipped has the reason for each key that can't be used. It quotes nothing of a key.
	skipped []error
	// symmetric and asymmetric say which kinds the set has, usable or not.
	symmetric, asymmetric bool
}

// parseJWKS parses a JWK set. A key that can't be used with one of the algorithms is skipped.
func parseJWKS(text []byte, candidates []*algorithm) (parsedKeys, error) {
	var document map[string]json.RawMessage
	var elements []json.RawMessage
	if json.Unmarshal(text, &document) != nil || json.Unmarshal(document["keys"], &elements) != nil {
		return parsedKeys{}, errNotKeySet
	}
	if len(elements) > maxKeys {
		return parsedKeys{}, fmt.Errorf("a JWK set of more than %d keys", maxKeys)
	}
	var parsed parsedKeys
	keys := make([]*verificationKey, len(elements))
	claimants := make(map[string]int)
	for i, element := range elements {
		members, _, err := decodeObject(string(element))
		if err == nil {
			isOct := members["kty"] == "oct"
			parsed.symmetric = parsed.symmetric || isOct
			parsed.asymmetric = parsed.asymmetric || !isOct
			if kid, ok := members["kid"].(string); ok && checkPurpose(members) == nil {
				claimants[kid]++
			}
			keys[i], err = parseJWK(members, candidates)
		}
		if err != nil {
			parsed.skipped = append(parsed.skipped, fmt.Errorf("keys[%d]: %w", i, err))
		}
	}
	parsed.set = newKeySet(parsed.withoutNamesakes(keys, claimants))
	return parsed, nil
}

// withoutNamesakes returns the keys that share their kid with no other signature key, usable or not. A token
// could not say which it means.
func (p *parsedKeys) withoutNamesakes(keys []*verificationKey, claimants map[string]int) []*verificationKey {
	var kept []*verificationKey
	for i, k := range keys {
		switch {
		case k == nil:
		case k.id != "" && claimants[k.id] > 1:
			p.skipped = append(p.skipped, fmt.Errorf("keys[%d]: it shares its kid with another key", i))
		default:
			kept = append(kept, k)
		}
	}
	return kept
}

// parseJWK returns the key of a JWK (RFC 7517, section 4), for those candidates that it allows.
func parseJWK(members map[string]any, candidates []*algorithm) (*verificationKey, error) {
	for _, name := range []string{"kty", "kid", "alg", "crv", "n", "e", "x", "y", "k"} {
		if v, present := members[name]; present {
			if _, ok := v.(string); !ok {
				return nil, fmt.Errorf("%s is not a string", name)
			}
		}
	}
	if err := checkPurpose(members); err != nil {
		return nil, err
	}
	kid, _ := members["kid"].(string)
	if len(kid) > maxKeyIDBytes {
		return nil, fmt.Errorf("kid is longer than %d bytes", maxKeyIDBytes)
	}
	if _, private := members["d"]; private {
		return nil, errors.New("it is a private key: whoever read it can sign")
	}
	if alg, present := members["alg"]; present {
		i := slices.IndexFunc(candidates, func(a *algorithm) bool { return a.name == alg })
		if i < 0 {
			return nil, errors.New("alg is not one of the issuer's algorithms")
		}
		candidates = candidates[i : i+1]
	}
	material, err := parseMaterial(members)
	if err != nil {
		return nil, err
	}
	return newKey(kid, material, candidates)
}

// checkPurpose refuses keys that aren't for verifying signatures (RFC 7517, sections 4.2 and 4.3).
func checkPurpose(members map[string]any) error {
	if use, present := members["use"]; present && use != "sig" {
		return errors.New("use is not sig")
	}
	operations, present := members["key_ops"]
	if !present {
		return nil
	}
	list, ok := operations.([]any)
	if !ok || !slices.Contains(list, any("verify")) {
		return errors.New("key_ops has no verify")
	}
	return nil
}

// parseMaterial returns the key itself (RFC 7518, section 6; RFC 8037, section 2).
func parseMaterial(members map[string]any) (crypto.PublicKey, error) {
	switch members["kty"] {
	case "RSA":
		return parseRSA(members)
	case "EC":
		return parseEC(members)
	case "OKP":
		return parseOKP(members)
	case "oct":
		return decodeMember(members, "k")
	}
	return nil, errors.New("kty is none of RSA, EC, OKP and oct")
}

// decodeMember returns the bytes of a base64url member, which must be present and not empty.
func decodeMember(members map[string]any, name string) ([]byte, error) {
	text, _ := members[name].(string)
	b, err := segments.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s is missing or not base64url", name)
	}
	return b, nil
}

func parseRSA(members map[string]any) (crypto.PublicKey, error) {
	n, err := decodeMember(members, "n")
	if err != nil {
		return nil, err
	}
	e, err := decodeMember(members, "e")
	if err != nil {
		return nil, err
	}
	if len(n) > maxRSABits/8+1 {
		return nil, fmt.Errorf("an RSA modulus of more than %d bits", maxRSABits)
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 31 {
		return nil, errors.New("an RSA exponent of more than 31 bits")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

// parseEC returns an elliptic curve key, whose point must be on its curve. Some issuers omit the curve and
// leading zeros of the coordinates. An omitted curve follows from alg, and is P-256 without one. A point lies
// on one curve only.
func parseEC(members map[string]any) (crypto.PublicKey, error) {
	alg, _ := members["alg"].(string)
	byAlgorithm := algorithms[alg]
	if byAlgorithm == nil {
		byAlgorithm = algorithms["ES256"]
	}
	curve := byAlgorithm.curve
	if name, present := members["crv"]; present {
		curve = nil
		for _, a := range algorithms {
			if a.curve != nil && a.curve.Params().Name == name {
				curve = a.curve
			}
		}
	}
	if curve == nil {
		return nil, errors.New("crv is none of P-256, P-384 and P-521")
	}
	size := (curve.Params().BitSize + 7) / 8
	point := make([]byte, 1+2*size)
	point[0] = 4 // an uncompressed point (SEC 1, section 2.3.3)
	for i, name := range []string{"x", "y"} {
		coordinate, err := decodeMember(members, name)
		if err != nil {
			return nil, err
		}
		if len(coordinate) > size {
			return nil, fmt.Errorf("%s is too long for the curve", name)
		}
		end := 1 + (i+1)*size
		copy(point[end-len(coordinate):end], coordinate)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

func parseOKP(members map[string]any) (crypto.PublicKey, error) {
	if members["crv"] != "Ed25519" {
		return nil, errors.New("crv is not Ed25519")
	}
	x, err := decodeMember(members, "x")
	if err != nil {
		return nil, err
	}
	if len(x) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("x must have %d bytes", ed25519.PublicKeySize)
	}
	return ed25519.PublicKey(x), nil
}
