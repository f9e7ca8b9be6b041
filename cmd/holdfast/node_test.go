package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// The commands of a node, as people type them: a cluster of two, its health, what each command says
// and how it exits.
func TestNodeCommands(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		if _, err := exec.LookPath("valkey-server"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("neither valkey-server nor redis-server is installed; run scripts/deps")
			}
			t.Skip("neither valkey-server nor redis-server is installed")
		}
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	password := at("password")
	if err := os.WriteFile(password, []byte("right\n"), 0o644); err != nil { // which is too much
		t.Fatal(err)
	}
	raft, metrics := [2]string{free(t), free(t)}, free(t)
	first := start(t, "node", "--dir", at("n1"), "--name", "n1", "--listen", "127.0.0.1:0", "--raft", raft[0], "--ready-file", at("ready1"), "--metrics", metrics, "--password-file", password)
	first.address(at("ready1"))
	secret := at("n1/secret")
	again := start(t, "node", "--dir", at("n1"), "--listen", "127.0.0.1:0", "--raft", "127.0.0.1:0")
	if code := again.end(); code != 1 || !strings.Contains(again.err.String(), "another process runs this directory") {
		t.Errorf("one directory twice: status %d, %s", code, again.err.String())
	}
	other := start(t, "node", "join", raft[0], "--dir", at("n3"), "--listen", "127.0.0.1:0", "--raft", "127.0.0.1:0", "--secret-file", secret)
	if code := other.end(); code != 1 || !strings.Contains(other.err.String(), "start it with --password-file") {
		t.Errorf("a node without the password: status %d, %s", code, other.err.String())
	}
	second := start(t, "node", "join", raft[0], "--dir", at("n2"), "--name", "n2", "--listen", "127.0.0.1:0", "--raft", raft[1],
		"--secret-file", secret, "--ready-file", at("ready2"), "--password-file", password)
	second.address(at("ready2"))
	for path, want := range map[string]int{"/livez": 200, "/metrics": 200, "/readyz": 200} {
		if got := get(t, "http://"+metrics+path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	sayTo := func(node, what string, args ...string) (string, error) {
		t.Helper()
		var out, errs bytes.Buffer
		err := run(append([]string{"node", what, "--node", node, "--secret-file", secret}, args...), &out, &errs)
		return out.String(), err
	}
	say := func(what string, args ...string) (string, error) { t.Helper(); return sayTo(raft[0], what, args...) }
	var s replica.Status
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := say("status", "--json")
		if err == nil && json.Unmarshal([]byte(out), &s) == nil && len(s.Nodes) == 2 && s.Nodes[0].Voter && s.Nodes[1].Voter {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not two voters: %v %s", err, out)
		}
	}
	// Who follows has asked the leader how far each log is.
	if out, err := sayTo(raft[1], "status"); err != nil || !regexp.MustCompile(`(?m)^n1 +leads .* yes +[1-9][0-9]* .*\nn2 +follows .* yes +[1-9][0-9]* `).MatchString(sorted(out)) {
		t.Errorf("a follower's status: %v\n%s", err, out)
	}
	for _, c := range []struct {
		what string
		args []string
		says string // in what is printed, or in the error
		bad  bool
	}{
		{"status", nil, "n1 leads", false},
		{"verify", nil, "  n2", false},
		{"verify", []string{"--json"}, `"equal": true`, false},
		{"transfer", []string{"n2"}, "n2 leads", false},
		{"transfer", []string{"n1", "--json"}, `"leader": "n1"`, false},
		{"transfer", []string{"n1"}, "n1 leads already", true},
		{"transfer", []string{"n9"}, "no node \"n9\"", true},
		{"leave", []string{"n1"}, "transfer leadership first", true},
		{"rejoin", []string{"--dir", at("n2")}, "a node runs on", true},
		{"leave", []string{"n2", "--json"}, `"left": "n2"`, false},
	} {
		out, err := say(c.what, c.args...)
		if err != nil {
			out += err.Error()
		}
		if (err != nil) != c.bad || !strings.Contains(out, c.says) {
			t.Errorf("%s %v: %v, %s", c.what, c.args, err, out)
		}
	}
	if code := second.end(); code != 1 || !strings.Contains(second.err.String(), "`holdfast node rejoin` takes it in again") {
		t.Errorf("who was taken out ends with %d, %s", code, second.err.String())
	}
	first.terminate()
	if said := first.err.String(); !strings.Contains(said, "chmod 600") || !strings.Contains(said, "file="+password) || strings.Contains(said, "file="+secret) {
		t.Errorf("of files that others may read it says %s", said)
	}
}

// What is wrong with a node's flags is said by their names, and before anything runs.
func TestNodeRefusals(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, short, good := file("empty", " \n"), file("short", "12345"), file("good", strings.Repeat("s", 32))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--password-file", empty}, empty + " is empty"},
		{[]string{"--secret-file", empty}, empty + " is empty"},
		{[]string{"--secret-file", short}, short + ": the nodes' secret has 5 bytes"},
		{[]string{"--listen", taken}, "--listen: "},
		{[]string{"--raft", taken}, "--raft: "},
		{[]string{"--sentinel", taken}, "--sentinel: "},
		{[]string{"--metrics", taken}, "--metrics: "},
		{[]string{"--raft", "0.0.0.0:0"}, "with --raft-advertise "},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"node", "--dir", filepath.Join(dir, "n"), "--listen", "127.0.0.1:0", "--raft", "127.0.0.1:0", "--secret-file", good}, c.args...)
		if err := run(args, &out, &errs); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	for _, nodes := range []string{"1", "2", "4", "-3"} {
		var out, errs bytes.Buffer
		if err := run([]string{"up", "--data", filepath.Join(dir, "up"), "--nodes=" + nodes}, &out, &errs); err == nil || !strings.Contains(err.Error(), "--nodes is 3 or 5") {
			t.Errorf("up --nodes %s: %v", nodes, err)
		}
	}
}

func TestNodeHelp(t *testing.T) {
	for _, c := range []struct{ args, says, not string }{
		{"node --help", "holdfast node run --help", ""},
		{"node run --help", "--join=", ""},
		{"node join --help", "--secret-file=", "--join="},
	} {
		p := start(t, strings.Fields(c.args)...)
		p.end()
		if said := p.out.String(); !strings.Contains(said, c.says) || c.not != "" && strings.Contains(said, c.not) {
			t.Errorf("%s: %s", c.args, said)
		}
	}
}

// sorted has the lines in order: nodes are listed by their random ids.
func sorted(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

// One of two is lost: those that are left say what they know, what is missing is named, and the exit status tells.
func TestNodeCommandsWithoutOne(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		if _, err := exec.LookPath("valkey-server"); err != nil {
			t.Skip("neither valkey-server nor redis-server is installed")
		}
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	raft := [2]string{free(t), free(t)}
	first := start(t, "node", "--dir", at("n1"), "--name", "n1", "--listen", "127.0.0.1:0", "--raft", raft[0], "--ready-file", at("ready1"))
	clients := first.address(at("ready1"))
	secret := at("n1/secret")
	second := start(t, "node", "join", raft[0], "--dir", at("n2"), "--name", "n2", "--listen", "127.0.0.1:0", "--raft", raft[1],
		"--secret-file", secret, "--ready-file", at("ready2"))
	second.address(at("ready2"))
	say := func(node, what string) string {
		var out, errs bytes.Buffer
		if err := run([]string{"node", what, "--node", node, "--secret-file", secret}, &out, &errs); err != nil {
			out.WriteString("exit 1: " + err.Error())
		}
		return out.String()
	}
	until := func(node, what string, words ...string) {
		t.Helper()
		said := ""
		for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			said = sorted(say(node, what))
			if !slices.ContainsFunc(words, func(w string) bool { return !regexp.MustCompile(w).MatchString(said) }) {
				return
			}
		}
		t.Fatalf("%s never says %q:\n%s", what, words, said)
	}
	until(raft[0], "status", `n2 +follows .* yes `)
	if err := second.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	until(raft[0], "verify", `[0-9a-f]{20,} +n1`, `n2 does not answer`, `exit 1: not all engines were compared: n2`)
	until(raft[0], "status", `n1 +waits`, `n2 +no answer`, `exit 1: nobody leads`)
	until(clients, "status", `exit 1: .*is this the address of --raft\?`)
	first.terminate()
	if text := first.err.String(); !strings.Contains(text, "node ends: it was told to") {
		t.Errorf("the end is not told:\n%s", text)
	}
}
