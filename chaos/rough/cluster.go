package rough

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// node is a member of a Patroni cluster.
type node struct {
	name, dir string
	port      int
	rest      string // Patroni's address
	server    *rig.Server
	patroni   *exec.Cmd
}

// cluster is two nodes, of which Patroni lets one lead, and the etcd through which they agree.
type cluster struct {
	etcd  string // its address
	nodes []*node
	pair  *rig.Pair
}

const superPassword = "super-0"

// newCluster starts a cluster in a folder. bin is the folder of PostgreSQL's programs. The cluster ends with
// the namespaces.
func newCluster(dir, bin string) (*cluster, error) {
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	c := &cluster{etcd: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	peers := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	etcd := exec.Command("etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls",
		"http://"+c.etcd, "--advertise-client-urls",
		"http://"+c.etcd, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
		"--initial-cluster", "default="+peers,
		// with version 3 of the API Patroni 3.0 takes its lock back after a pause
		"--unsafe-no-fsync", "--enable-v2")
	if err := etcd.Start(); err != nil {
		return nil, err
	}
	for i := range 2 {
		n := &node{name: fmt.Sprintf("node%d", i), port: ports[2+2*i],
			rest: fmt.Sprintf("127.0.0.1:%d", ports[3+2*i])}
		n.dir = filepath.Join(dir, n.name)
		super := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", superPassword),
			Host:     fmt.Sprintf("127.0.0.1:%d", n.port),
			RawQuery: "sslmode=disable"}
		n.server = rig.ServerAt(&super)
		if err := c.add(n, bin); err != nil {
			return nil, err
		}
	}
	if c.pair, err = rig.PairOf("the cluster", c.nodes[0].server, c.nodes[1].server); err != nil {
		return nil, err
	}
	return c, nil
}

// freePorts returns ports that are free now.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// configuration is a node's configuration. Commits wait for the other node while there is one
// (synchronous_mode), so that none is lost.
const configuration = `scope: chaos
name: %[1]s
restapi: {listen: "%[2]s", connect_address: "%[2]s"}
etcd: {host: "%[3]s"}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 3
    synchronous_mode: true
    postgresql: {use_pg_rewind: true, parameters: {max_connections: 100, wal_log_hints: "on"}}
  initdb: [{encoding: UTF8}, {locale: C}]
  pg_hba: ["host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256"]
postgresql:
  listen: 127.0.0.1:%[4]d
  connect_address: 127.0.0.1:%[4]d
  data_dir: %[5]s/data
  bin_dir: %[6]s
  pgpass: %[5]s/pgpass
  authentication:
    superuser: {username: postgres, password: %[7]s}
    replication: {username: replicator, password: replicator-0}
    rewind: {username: rewinder, password: rewinder-0}
  parameters:
    unix_socket_directories: "%[5]s"
    fsync: "off"
    shared_buffers: 64MB
    password_encryption: scram-sha-256
`

// add configures a node and starts it. It returns once the node runs.
func (c *cluster) add(n *node, bin string) error {
	uid, gid, err := postgres()
	if err != nil {
		return err
	}
	text := fmt.Sprintf(configuration, n.name, n.rest, c.etcd, n.port, n.dir, bin, superPassword)
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(n.configuration(), []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Chown(n.dir, uid, gid); err != nil {
		return err
	}
	c.nodes = append(c.nodes, n)
	if err := n.start(); err != nil {
		return err
	}
	return await(time.Minute, n.name+" to run", func() bool {
		return n.state().State == "running" || n.state().State == "streaming"
	})
}

func (n *node) configuration() string { return filepath.Join(n.dir, "patroni.yml") }

// start starts Patroni, which starts PostgreSQL.
func (n *node) start() error {
	uid, gid, err := postgres()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(filepath.Dir(n.dir), n.name+".log"),
		os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.patroni = exec.Command("patroni", n.configuration())
	n.patroni.Dir, n.patroni.Stdout, n.patroni.Stderr = n.dir, log, log
	n.patroni.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Setpgid: true}
	return n.patroni.Start()
}

// postgres returns the user that runs PostgreSQL.
func postgres() (uid, gid int, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, err
	}
	uid, err = strconv.Atoi(u.Uid)
	gid, e := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err, e)
}

// state is a node's report of itself.
type state struct {
	Role, State string
}

func (n *node) state() (s state) {
	n.ask("/patroni", &s)
	return s
}

// ask asks Patroni. Without an answer into isn't changed.
func (n *node) ask(path string, into any) {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	r, err := client.Get("http://" + n.rest + path)
	if err != nil {
		return
	}
	defer r.Body.Close()
	_ = json.NewDecoder(r.Body).Decode(into)
}

// leads reports whether a node says that it leads.
func (n *node) leads() bool {
	s := n.state()
	return s.State == "running" && (s.Role == "master" || s.Role == "primary")
}

// leader returns the node that serves.
func (c *cluster) leader() *node {
	for _, n := range c.nodes {
		if n.server == c.pair.Primary() {
			return n
		}
	}
	return nil
}

// other returns the node that doesn't.
func (c *cluster) other() *node {
	for _, n := range c.nodes {
		if n.server != c.pair.Primary() {
			return n
		}
	}
	return nil
}

// awaitFailover returns once the other node leads and has confirmed a commit. It serves from then on.
func (c *cluster) awaitFailover() error {
	next := c.other()
	if err := await(time.Minute, next.name+" to lead", next.leads); err != nil {
		return err
	}
	if err := await(time.Minute, next.name+" to commit", func() bool {
		return commits(next.server)
	}); err != nil {
		return err
	}
	c.pair.Serve(next.server)
	return nil
}

// awaitFollower returns once every commit waits for the other node and Patroni has recorded that in etcd.
// Before that Patroni promotes no other node.
func (c *cluster) awaitFollower() error {
	return await(time.Minute, c.other().name+" to follow", func() bool {
		var told struct{ Members []struct{ Name, Role string } }
		c.leader().ask("/cluster", &told)
		for _, m := range told.Members {
			if m.Name == c.other().name && m.Role == "sync_standby" {
				return true
			}
		}
		return false
	})
}

// signal sends a signal to Patroni, to PostgreSQL and to its children, as if to the whole machine.
func (n *node) signal(s syscall.Signal) {
	pids := []int{n.patroni.Process.Pid}
	if b, err := os.ReadFile(filepath.Join(n.dir, "data", "postmaster.pid")); err == nil {
		first, _, _ := strings.Cut(string(b), "\n")
		if pid, err := strconv.Atoi(first); err == nil {
			pids = append(pids, pid)
		}
	}
	for i := 0; i < len(pids); i++ { // the list grows by their children
		_ = syscall.Kill(pids[i], s)
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[i], pids[i]))
		for _, child := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(child); err == nil {
				pids = append(pids, pid)
			}
		}
	}
}

// await polls until a condition holds.
func await(limit time.Duration, what string, done func() bool) error {
	deadline := time.Now().Add(limit)
	for !done() {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s", limit, what)
		}
		pause(100 * time.Millisecond)
	}
	return nil
}
