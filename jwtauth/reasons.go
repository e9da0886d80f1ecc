package jwtauth

import (
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// The reasons why a token is refused. The texts are fixed, so that nothing of a request gets into a log.
var (
	errTooLong      = invalid(errors.New("the token is longer than 16 KiB"))
	errForm         = invalid(errors.New("not three segments of base64url"))
	errHeader       = invalid(errors.New("the header is malformed or has a parameter that is refused"))
	errType         = invalid(errors.New("the token is of another type"))
	errClaims       = invalid(errors.New("the claims are malformed"))
	errIssuer       = invalid(jwt.ErrTokenInvalidIssuer)
	errAlgorithm    = invalid(errors.New("the issuer does not sign with this algorithm"))
	errNoKeyID      = invalid(errors.New("the token names no key, and the issuer has not exactly one"))
	errUnknownKey   = invalid(errors.New("the issuer has no key of this name"))
	errKeyAlgorithm = invalid(errors.New("the key is not for this algorithm"))
	errSignature    = invalid(jwt.ErrTokenSignatureInvalid)
	errExpired      = invalid(jwt.ErrTokenExpired)
	errAudience     = invalid(jwt.ErrTokenInvalidAudience)
	errClaimMissing = invalid(jwt.ErrTokenRequiredClaimMissing)
	errParty        = invalid(errors.New("the authorized party is another"))
	errScope        = invalid(errors.New("a required scope is not granted"))
	errRevoked      = invalid(errors.New("the credential is revoked"))
	errScheme       = invalid(errors.New("the Authorization header is not of the form Bearer, space, token"))
)

// The reasons why a request is refused before its token is read.
var (
	errCrossOrigin = fmt.Errorf("%w: an unsafe method with the credential in a cookie",
		tenantdb.ErrCrossOrigin)
	errSeveral = fmt.Errorf("%w: more than one Authorization header or cookie",
		tenantdb.ErrSeveralCredentials)
)

// claimReasons maps golang-jwt's errors to our reasons, the most telling first.
var claimReasons = []struct{ cause, reason error }{
	{jwt.ErrTokenExpired, errExpired},
	{jwt.ErrTokenNotValidYet, invalid(jwt.ErrTokenNotValidYet)},
	{jwt.ErrTokenUsedBeforeIssued, invalid(jwt.ErrTokenUsedBeforeIssued)},
	{jwt.ErrTokenInvalidAudience, errAudience},
	{jwt.ErrTokenRequiredClaimMissing, errClaimMissing},
}

// invalid returns a reason why a credential is not valid.
func invalid(cause error) error {
	return fmt.Errorf("%w: %w", tenantdb.ErrInvalidCredential, cause)
}

// unavailable returns a reason why a credential can't be verified now.
func unavailable(cause error) error {
	return fmt.Errorf("%w: %w", tenantdb.ErrAuthUnavailable, cause)
}

// claimReason returns the fixed reason for an error of golang-jwt's validator.
func claimReason(err error) error {
	for _, known := range claimReasons {
		if errors.Is(err, known.cause) {
			return known.reason
		}
	}
	return errClaims
}

// The reasons why a credential can't be verified now, besides those of a failed fetch.
var (
	errKeyfuncUnavailable    = unavailable(errors.New("Keyfunc can't have the keys"))
	errRevocationUnavailable = unavailable(errors.New("Revoked can't be asked"))
)
