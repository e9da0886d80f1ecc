package rough

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestResolver_isUnderstoodByGo(t *testing.T) {
	t.Parallel()
	r, err := newResolver("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer r.conn.Close()
	asking := &net.Resolver{PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.conn.LocalAddr().String())
		}}
	look := func(limit time.Duration) ([]string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return asking.LookupHost(ctx, serverName+".")
	}
	var dnsErr *net.DNSError
	if found, err := look(5 * time.Second); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
		t.Errorf("unknown: %v, %v", found, err)
	}
	for _, address := range []string{firstAddress, secondAddress} {
		r.say(address)
		if found, err := look(5 * time.Second); err != nil || len(found) != 1 || found[0] != address {
			t.Errorf("%s: %v, %v", address, found, err)
		}
	}
	r.say(silent)
	if found, err := look(100 * time.Millisecond); !errors.As(err, &dnsErr) || !dnsErr.IsTimeout {
		t.Errorf("silent: %v, %v", found, err)
	}
}

func TestResolver_ignoresWhatIsNoQuestion(t *testing.T) {
	t.Parallel()
	for _, question := range []string{"", "short", strings.Repeat("\x00", 15), strings.Repeat("\xff", 300)} {
		if reply := replyTo([]byte(question), firstAddress); reply != nil {
			t.Errorf("%q: %q", question, reply)
		}
	}
}

func TestWorld_Missing_namesThePackage(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if lack := packets.Missing(); !strings.Contains(lack, "root") {
			t.Errorf("as another user than root: %q", lack)
		}
		return
	}
	there := need{t.TempDir(), "a-package"}
	lacking := need{filepath.Join(t.TempDir(), "program"), "another-package"}
	if lack := (World{needs: []need{there, {"sh", "dash"}}}).Missing(); lack != "" {
		t.Errorf("nothing is missing, and it says %q", lack)
	}
	if lack := (World{needs: []need{there, lacking}}).Missing(); !strings.Contains(lack,
		"apt-get install another-package") {
		t.Errorf("a program is missing, and it says %q", lack)
	}
}
