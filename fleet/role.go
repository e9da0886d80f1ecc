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

	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// newPassword generates a role's password of 128 random bits.
func newPassword() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

// makeRole creates a login role, or changes the password of an existing one.
func makeRole(ctx context.Context, conn *pgx.Conn, name, password string) error {
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	// No other rights are listed: a new role has none, and only a superuser may mention SUPERUSER, even to
	// leave it as it is.
	rights := name + " LOGIN PASSWORD '" + verifier + "'"
	_, err = conn.Exec(ctx, "CREATE ROLE "+rights)
	if sqlstate.Of(err) == sqlstate.DuplicateObject {
		_, err = conn.Exec(ctx, "ALTER ROLE "+rights)
	}
	return err
}

// joinRole makes the server's own role a member of a tenant's role, so that it may SET ROLE and create
// databases for that role. From PostgreSQL 16 on a creator that isn't a superuser has only ADMIN on a new
// role, which allows this grant.
func joinRole(ctx context.Context, conn *pgx.Conn, name string) error {
	grant := "GRANT " + name + " TO CURRENT_USER"
	if majorVersion(conn) >= 16 {
		grant += " WITH INHERIT FALSE, SET TRUE"
	}
	_, err := conn.Exec(ctx, grant)
	return err
}

// leaveRole ends the membership. A member of every tenant's role would have all tenants' rights, and
// PostgreSQL often searches all memberships of a role.
func leaveRole(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "REVOKE "+name+" FROM CURRENT_USER")
	return err
}

// asRole calls do after SET ROLE to a joined role. This works without inherited rights (NOINHERIT). A REVOKE
// by another role than the owner would do nothing but warn.
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

// openToOwner lets the owner of a new database connect to it. The database was created without connections
// allowed, since a connection that another role made before the REVOKE would stay open.
func openToOwner(ctx context.Context, conn *pgx.Conn, owner, database string) error {
	return asRole(ctx, conn, owner, func() error {
		_, err := conn.Exec(ctx, "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC; "+
			"ALTER DATABASE "+database+" WITH ALLOW_CONNECTIONS true")
		return err
	})
}

// roleExists reports whether a tenant's role exists.
func roleExists(ctx context.Context, conn *pgx.Conn, tenantID string) (exists bool, err error) {
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)",
		databaseOf(tenantID)).Scan(&exists)
	return exists, err
}

// rights are the rights of a server's own role.
type rights struct {
	name                    string
	super, databases, roles bool
}

// rightsOf queries the rights of a connection's role.
func rightsOf(ctx context.Context, conn *pgx.Conn) (rights, error) {
	var r rights
	err := conn.QueryRow(ctx, "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles"+
		" WHERE rolname = current_user").Scan(&r.name, &r.super, &r.databases, &r.roles)
	return r, err
}

// missing returns an error that names a right that the role lacks, and how to grant it. With roles, tenants
// have their own roles.
func (r rights) missing(roles bool) error {
	name := pgx.Identifier{r.name}.Sanitize()
	switch {
	case r.super:
	case !r.databases:
		return fmt.Errorf("Config.Server's role %s may not create databases: "+
			"a superuser can ALTER ROLE %s CREATEDB", name, name)
	case roles && !r.roles:
		return fmt.Errorf("Config.Server's role %s may not create roles, and each tenant gets its own role: "+
			"a superuser can ALTER ROLE %s CREATEROLE, or all tenants connect as %s with Config.SharedRole",
			name, name, name)
	}
	return nil
}

// explainRights adds the right that the server's own role lacks to an error that this caused.
func explainRights(ctx context.Context, conn *pgx.Conn, roles bool, err error) error {
	if sqlstate.Of(err) != sqlstate.InsufficientPrivilege || conn.IsClosed() {
		return err
	}
	r, askErr := rightsOf(ctx, conn)
	if askErr != nil || r.super {
		return err
	}
	if missing := r.missing(roles); missing != nil {
		return fmt.Errorf("%w: %w", missing, err)
	}
	return fmt.Errorf("Config.Server's role %s isn't a superuser, and has no right to what others own or use"+
		": %w", pgx.Identifier{r.name}.Sanitize(), err)
}

// scramVerifier returns what a server stores for a password (RFC 5803). The password itself is in no
// statement, since a server may log statements.
func scramVerifier(password string) (string, error) {
	const iterations = 4096 // PostgreSQL's default
	var salt [16]byte
	_, _ = rand.Read(salt[:])
	salted, err := pbkdf2.Key(sha256.New, password, salt[:], iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt[:]), encode(stored[:]),
		encode(sign(salted, "Server Key"))), nil
}

// sign computes HMAC-SHA-256.
func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
