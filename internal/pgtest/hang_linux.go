package pgtest

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Hang stops the server's processes, as on a machine that hangs: the kernel accepts connections, but nothing
// is answered. resume continues them, as does the end of the test.
func (s *Server) Hang(t testing.TB) (resume func()) {
	t.Helper()
	resume, err := s.Suspend()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(resume)
	return resume
}

// Suspend is Hang for a program that is not a test.
func (s *Server) Suspend() (resume func(), err error) {
	var stopped []int
	// The first process starts the others. It is stopped first, so that no new one appears.
	postmaster := s.process.Pid
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	stopped = append(stopped, postmaster)
	for !hasState(postmaster, "T") { // for microseconds
	}
	for _, pid := range children(postmaster) {
		if syscall.Kill(pid, syscall.SIGSTOP) == nil {
			stopped = append(stopped, pid)
		}
	}
	return func() {
		for _, pid := range stopped {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		stopped = nil
	}, nil
}

// Crash kills the server and all its children at once (SIGKILL), also while the server hangs. What they had
// not passed to the kernel is lost.
func (s *Server) Crash() {
	postmaster := s.process.Pid
	// so that no child is made meanwhile, and none is told to write
	_ = syscall.Kill(postmaster, syscall.SIGSTOP)
	for !hasState(postmaster, "T") {
	}
	orphans := children(postmaster)
	for _, pid := range orphans {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.signal(syscall.SIGKILL)
	for _, pid := range orphans { // the server can't start again while one of them has its shared memory
		for !hasState(pid, "Z") {
			<-time.After(time.Millisecond)
		}
	}
}

// children returns a process's children.
func children(parent int) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if fields := status(pid); err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func hasState(pid int, state string) bool {
	fields := status(pid)
	return len(fields) == 0 || fields[0] == state
}

// status returns the fields of /proc/pid/stat from a process's state on (proc(5)).
func status(pid int) []string {
	line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return strings.Fields(string(line[strings.LastIndexByte(string(line), ')')+1:]))
}
