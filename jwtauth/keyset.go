package jwtauth

import (
	"crypto"
	"errors"
	"slices"
	"sync/atomic"
)

// verificationKey is a key that may verify signatures, and the algorithms for which.
type verificationKey struct {
	// id is the key's kid, or empty.
	id         string
	material   crypto.PublicKey
	algorithms []*algorithm
	// retired is set when the key has left its issuer's set, which ends the cached tokens that it verified.
	retired atomic.Bool
}

// newKey returns the key for the candidate algorithms that fit it, or the reason why none does.
func newKey(id string, material crypto.PublicKey, candidates []*algorithm) (*verificationKey, error) {
	k := &verificationKey{id: id, material: material}
	reason := errKeyType
	for _, a := range candidates {
		switch err := a.fits(material); {
		case err == nil:
			k.algorithms = append(k.algorithms, a)
		case !errors.Is(err, errKeyType):
			reason = err
		}
	}
	if k.algorithms == nil {
		return nil, reason
	}
	return k, nil
}

// serves reports whether the key may verify signatures of an algorithm.
func (k *verificationKey) serves(a *algorithm) bool {
	return slices.Contains(k.algorithms, a)
}

// sameAs reports whether two keys have the same name, material and algorithms.
func (k *verificationKey) sameAs(other *verificationKey) bool {
	if k.id != other.id || !slices.Equal(k.algorithms, other.algorithms) {
		return false
	}
	comparable, ok := k.material.(interface{ Equal(crypto.PublicKey) bool })
	return ok && comparable.Equal(other.material)
}

// keySet has an issuer's usable keys at one time. It is immutable.
type keySet struct {
	keys  []*verificationKey
	named map[string]*verificationKey
}

// newKeySet returns a set of usable keys. Their names must differ.
func newKeySet(keys []*verificationKey) *keySet {
	set := &keySet{keys: keys, named: make(map[string]*verificationKey)}
	for _, k := range keys {
		if k.id != "" {
			set.named[k.id] = k
		}
	}
	return set
}

// lookup returns the key with the kid of a token's header. If the token has no kid, it is the only key that
// serves the token's algorithm. Keys are never tried one after the other.
func (s *keySet) lookup(h header, a *algorithm) (*verificationKey, error) {
	if !h.hasKeyID {
		return s.only(a)
	}
	k := s.named[h.keyID]
	if k == nil {
		return nil, errUnknownKey
	}
	if !k.serves(a) {
		return nil, errKeyAlgorithm
	}
	return k, nil
}

// only returns the one key that serves an algorithm.
func (s *keySet) only(a *algorithm) (*verificationKey, error) {
	var found *verificationKey
	for _, k := range s.keys {
		if !k.serves(a) {
			continue
		}
		if found != nil {
			return nil, errNoKeyID
		}
		found = k
	}
	if found == nil && len(s.keys) == 1 {
		return nil, errKeyAlgorithm
	}
	if found == nil {
		return nil, errNoKeyID
	}
	return found, nil
}

// adopt replaces a key by its equal of an earlier set, and reports whether there is one.
func (s *keySet) adopt(old *verificationKey) bool {
	i := slices.IndexFunc(s.keys, old.sameAs)
	if i < 0 {
		return false
	}
	s.keys[i] = old
	if old.id != "" {
		s.named[old.id] = old
	}
	return true
}
