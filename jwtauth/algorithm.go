package jwtauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of an RSA modulus in bits. The minimum is RFC 7518's. The maximum keeps a verification cheap.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// algorithm is a row of RFC 7518's table of signature algorithms (section 3.1), or EdDSA (RFC 8037).
type algorithm struct {
	name   string
	method jwt.SigningMethod
	// hmacBytes is the minimum length of a symmetric key: that of the hash (RFC 7518, section 3.2). It is 0
	// for asymmetric algorithms.
	hmacBytes int
	// keyType is the kty of its keys.
	keyType string
	// curve is the curve of ECDSA keys. Each algorithm has one.
	curve elliptic.Curve
}

// algorithms holds every algorithm we know. "none" is not among them.
var algorithms = map[string]*algorithm{
	"HS256": {name: "HS256", method: jwt.SigningMethodHS256, keyType: "oct", hmacBytes: 32},
	"HS384": {name: "HS384", method: jwt.SigningMethodHS384, keyType: "oct", hmacBytes: 48},
	"HS512": {name: "HS512", method: jwt.SigningMethodHS512, keyType: "oct", hmacBytes: 64},
	"RS256": {name: "RS256", method: jwt.SigningMethodRS256, keyType: "RSA"},
	"RS384": {name: "RS384", method: jwt.SigningMethodRS384, keyType: "RSA"},
	"RS512": {name: "RS512", method: jwt.SigningMethodRS512, keyType: "RSA"},
	"PS256": {name: "PS256", method: strictPSS(jwt.SigningMethodPS256), keyType: "RSA"},
	"PS384": {name: "PS384", method: strictPSS(jwt.SigningMethodPS384), keyType: "RSA"},
	"PS512": {name: "PS512", method: strictPSS(jwt.SigningMethodPS512), keyType: "RSA"},
	"ES256": {name: "ES256", method: jwt.SigningMethodES256, keyType: "EC", curve: elliptic.P256()},
	"ES384": {name: "ES384", method: jwt.SigningMethodES384, keyType: "EC", curve: elliptic.P384()},
	"ES512": {name: "ES512", method: jwt.SigningMethodES512, keyType: "EC", curve: elliptic.P521()},
	"EdDSA": {name: "EdDSA", method: jwt.SigningMethodEdDSA, keyType: "OKP"},
}

// strictPSS is a PSS method that accepts only a salt as long as the hash (RFC 7518, section 3.5).
// golang-jwt's own accepts any salt.
func strictPSS(m *jwt.SigningMethodRSAPSS) jwt.SigningMethod {
	return &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: m.SigningMethodRSA,
		Options:          m.Options,
		VerifyOptions:    &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
	}
}

// symmetric reports whether the key that verifies can also sign.
func (a *algorithm) symmetric() bool {
	return a.hmacBytes > 0
}

// errKeyType is returned by fits for a key of another family.
var errKeyType = errors.New("the key is of another type")

// fits returns nil if the algorithm may be used with a key. The error's text holds nothing of the key.
func (a *algorithm) fits(material crypto.PublicKey) error {
	switch k := material.(type) {
	case []byte:
		if !a.symmetric() {
			return errKeyType
		}
		if len(k) < a.hmacBytes {
			return fmt.Errorf("%d bytes are too short: %s needs %d (RFC 7518, section 3.2)", len(k), a.name,
				a.hmacBytes)
		}
		return nil
	case *rsa.PublicKey:
		if a.keyType != "RSA" {
			return errKeyType
		}
		return checkRSA(k)
	case *ecdsa.PublicKey:
		if a.curve == nil || k == nil || k.Curve != a.curve {
			return errKeyType
		}
		return checkPoint(k)
	case ed25519.PublicKey:
		if a.keyType != "OKP" || len(k) != ed25519.PublicKeySize {
			return errKeyType
		}
		return nil
	}
	return errKeyType
}

// checkPoint refuses a key that is not a point of its curve. Bytes panics if it has no coordinates.
func checkPoint(k *ecdsa.PublicKey) (err error) {
	defer func() {
		if recover() != nil {
			err = errKeyType
		}
	}()
	_, err = k.Bytes()
	return err
}

// checkRSA refuses a modulus outside the bounds and an exponent that signs nothing.
func checkRSA(k *rsa.PublicKey) error {
	if k == nil || k.N == nil || k.N.Sign() < 0 {
		return errKeyType
	}
	if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA modulus of %d bits is outside %d to %d (RFC 7518, section 3.3)", bits,
			minRSABits, maxRSABits)
	}
	if k.E < 3 || k.E%2 == 0 || k.N.Bit(0) == 0 {
		return errors.New("the RSA exponent must be odd and at least 3, and the modulus odd")
	}
	return nil
}
