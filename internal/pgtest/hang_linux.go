package pgtest

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Hang stops the server's processes where they are, as a machine that hangs would: connections are accepted by the kernel, and nothing
// is answered. It returns what lets them go on, which the end of the test does too.
func (s *Server) Hang(t testing.TB) (resume func()) {
	t.Helper()
	var stopped []int
	resume = func() {
		for _, pid := range stopped {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		stopped = nil
	}
	t.Cleanup(resume)
	// The first one makes the others; it goes first, and no new one appears.
	postmaster := s.process.Pid
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	stopped = append(stopped, postmaster)
	for !hasState(postmaster, "T") { // for microseconds
	}
	for _, pid := range children(postmaster) {
		if syscall.Kill(pid, syscall.SIGSTOP) == nil {
			stopped = append(stopped, pid)
		}
	}
	return resume
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

// status returns a process's state, its parent and what follows (proc(5), /proc/pid/stat).
func status(pid int) []string {
	line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return strings.Fields(string(line[strings.LastIndexByte(string(line), ')')+1:]))
}
