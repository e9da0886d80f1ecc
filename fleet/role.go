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

// makeRole makes a login role, or gives one that is there the password.
func makeRole(ctx context.Context, conn *pgx.Conn, name, password string) error {
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	// Without words for other rights: a new role has none, and only a superuser may alter SUPERUSER, even to
	// what it is.
	rights := name + " LOGIN PASSWORD '" + verifier + "'"
	_, err = conn.Exec(ctx, "CREATE ROLE "+rights)
	if isPG(err, pgDuplicateRole) {
		_, err = conn.Exec(ctx, "ALTER ROLE "+rights)
	}
	return err
}

// joinRole makes the server's own role a member of a tenant's, so that it may become that role, and give
// databases to it. From PostgreSQL 16 on who creates a role without being a superuser has no more than ADMIN
// on it, which allows this grant.
func joinRole(ctx context.Context, conn *pgx.Conn, name string) error {
	grant := "GRANT " + name + " TO CURRENT_USER"
	if majorVersion(conn) >= 16 {
		grant += " WITH INHERIT FALSE, SET TRUE"
	}
	_, err := conn.Exec(ctx, grant)
	return err
}

// leaveRole ends that: a member of every tenant's role would have all tenants' rights, and PostgreSQL looks
// through all memberships of a role time and again.
func leaveRole(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "REVOKE "+name+" FROM CURRENT_USER")
	return err
}

// asRole does something as a role that was joined. Rights that aren't inherited (NOINHERIT) are its rights
// all the same then, and a REVOKE by another than the owner would do nothing, with a warning.
func asRole(ctx context.Context, conn *pgx.Conn, name string, do func() error) error {
	if _, err := conn.Exec(ctx, "SET ROLE "+name); err != nil {
		return err
	}
	defer func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), "RESET ROLE"); err != nil {
			closeAdmin(conn)
		}
	}()
	return do()
}

// openToOwner opens a new database, which was created closed, to the role that owns it. A connection of
// another role that was let in before the REVOKE would stay.
func openToOwner(ctx context.Context, conn *pgx.Conn, owner, database string) error {
	return asRole(ctx, conn, owner, func() error {
		_, err := conn.Exec(ctx, "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC; ALTER DATABASE "+database+" WITH ALLOW_CONNECTIONS true")
		return err
	})
}

// roleExists reports whether a tenant's role is there.
func roleExists(ctx context.Context, conn *pgx.Conn, tenantID string) (there bool, err error) {
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", databaseOf(tenantID)).Scan(&there)
	return there, err
}

// rights are what a server's own role may do.
type rights struct {
	name                    string
	super, databases, roles bool
}

// rightsOf asks for the rights of a connection's role.
func rightsOf(ctx context.Context, conn *pgx.Conn) (rights, error) {
	var r rights
	ask := conn.QueryRow(ctx, "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user")
	err := ask.Scan(&r.name, &r.super, &r.databases, &r.roles)
	return r, err
}

// missing says which right the role lacks, and what to do about it; nil if none. Roles: tenants have roles of
// their own.
func (r rights) missing(roles bool) error {
	name := pgx.Identifier{r.name}.Sanitize()
	switch {
	case r.super:
	case !r.databases:
		return fmt.Errorf("Config.Server's role %s may not create databases: a superuser can ALTER ROLE %s CREATEDB", name, name)
	case roles && !r.roles:
		return fmt.Errorf("Config.Server's role %s may not create roles, and each tenant gets a role of its own: a superuser can ALTER ROLE %s "+
			"CREATEROLE, or all tenants connect as %s with Config.SharedRole", name, name, name)
	}
	return nil
}

// lacking says what the server's own role is missing, where that is why something failed.
func lacking(ctx context.Context, conn *pgx.Conn, roles bool, err error) error {
	if !isPG(err, pgInsufficientPrivilege) || conn.IsClosed() {
		return err
	}
	r, askErr := rightsOf(ctx, conn)
	if askErr != nil || r.super {
		return err
	}
	if missing := r.missing(roles); missing != nil {
		return fmt.Errorf("%w: %w", missing, err)
	}
	return fmt.Errorf("Config.Server's role %s, which is no superuser, has no right over what another role made or uses: %w",
		pgx.Identifier{r.name}.Sanitize(), err)
}

// scramVerifier is what a server stores for a password (RFC 5803), so that the password itself is never in a
// statement, which a server may log.
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
