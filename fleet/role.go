package fleet

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// newPassword generates a role's password: 128 random bits.
func newPassword() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

// makeRole makes a login role, or gives one that is there the password. The creator becomes a member, so that it may give
// databases to the role.
func makeRole(ctx context.Context, conn *pgx.Conn, name, password string) error {
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	rights := name + " LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '" + verifier + "'"
	_, err = conn.Exec(ctx, "CREATE ROLE "+rights)
	if isPG(err, pgDuplicateRole) {
		_, err = conn.Exec(ctx, "ALTER ROLE "+rights)
	}
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "GRANT "+name+" TO CURRENT_USER")
	return err
}

// scramVerifier is what a server stores for a password (RFC 5803), so that the password itself is never in a statement, which a server
// may log.
func scramVerifier(password string) (string, error) {
	const iterations = 4096 // the server's own default
	var salt [16]byte
	_, _ = rand.Read(salt[:])
	salted, err := pbkdf2.Key(sha256.New, password, salt[:], iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt[:]), encode(stored[:]), encode(sign(salted, "Server Key"))), nil
}

// sign is HMAC-SHA-256.
func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
