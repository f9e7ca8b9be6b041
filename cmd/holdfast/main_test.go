package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is the command too, so that tests can run it as a process.
func TestMain(m *testing.M) {
	if os.Getenv("HOLDFAST_TEST_AS_COMMAND") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is the command, running.
type process struct {
	*testing.T
	cmd      *exec.Cmd
	out, err bytes.Buffer // to be read when it has ended
	ended    chan error
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{T: t, ended: make(chan error, 1)}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], args...)
	p.cmd.Env = append(os.Environ(), "HOLDFAST_TEST_AS_COMMAND=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// end waits for the process and returns its exit status.
func (p *process) end() int {
	p.Helper()
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.Fatalf("does not end; %s %s", p.out.String(), p.err.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) terminate() {
	p.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.Fatal(err)
	}
	if code := p.end(); code != 0 {
		p.Errorf("exit status %d: %s", code, p.err.String())
	}
}

// address waits for the ready file.
func (p *process) address(file string) string {
	p.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(text))
		}
		select {
		case <-p.ended:
			p.Fatalf("ended: %s", p.err.String())
		default:
		}
	}
	p.Fatal("not ready within 20 s")
	return ""
}

func get(t *testing.T, url string, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUp(t *testing.T) {
	address := free(t)
	data := filepath.Join(t.TempDir(), "data")
	for range 2 { // the second time finds what the first has left
		began := time.Now()
		p := start(t, "up", "--listen", address, "--data", data)
		for get(t, "http://"+address+"/readyz") != 200 {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("not up: %s %s", p.out.String(), p.err.String())
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("up after %s", time.Since(began).Round(time.Millisecond))
		if status := get(t, "http://"+address+"/v1/sales/demo"); status != 200 {
			t.Errorf("the demo sale: %d", status)
		}
		second := start(t, "up", "--listen", "127.0.0.1:0", "--data", data)
		if code := second.end(); code != 1 || !strings.Contains(second.err.String(), data) {
			t.Errorf("a second one on the same data: status %d, %s", code, second.err.String())
		}
		p.terminate()
		if !strings.Contains(p.out.String(), "http://"+address+"/") || !strings.Contains(p.out.String(), data) {
			t.Errorf("it said %s", p.out.String())
		}
	}
}

func TestServeAndProvider(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	var out, errs bytes.Buffer
	if err := run([]string{"key", "new", "shop"}, &out, &errs); err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(errs.String(), "Bearer ")
	secret, _, _ := strings.Cut(after, "\n")
	if secret == "" || strings.Contains(out.String(), secret) {
		t.Errorf("the key belongs to stderr alone: %q, %q", out.String(), errs.String())
	}
	if err := os.WriteFile(file("config.yaml"), out.Bytes(), 0o600); err != nil { // what is printed is what is read
		t.Fatal(err)
	}
	if err := run([]string{"migrate", "--db", "sqlite:" + file("db")}, &out, &out); err != nil {
		t.Fatal(err)
	}
	provider := start(t, "provider", "--listen", "127.0.0.1:0", "--log", file("log"), "--faults", "standard", "--ready-file", file("p"))
	p := start(t, "--log-format", "json", "serve", "--listen", "127.0.0.1:0", "--store", "file:"+file("store"), "--db", "sqlite:"+file("db"),
		"--provider", "http://"+provider.address(file("p")), "--config", file("config.yaml"), "--ready-file", file("s"))
	base := "http://" + p.address(file("s"))
	if status := get(t, base+"/v1/sales"); status != 401 {
		t.Errorf("without a key: %d", status)
	}
	if status := get(t, base+"/v1/sales", "Authorization", "Bearer "+secret); status != 200 {
		t.Errorf("with the key: %d", status)
	}
	p.terminate()
	for line := range strings.Lines(p.err.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	provider.terminate()
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("kees: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"serve", "--listen", "127.0.0.1:0", "--provider", "http://127.0.0.1:1"}
	engines := []string{"--store", "mem:", "--db", "sqlite:" + filepath.Join(dir, "db")}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"drill"}, "expected one of"},
		{[]string{"nonsense"}, "nonsense"},
		{base, "--db"},
		{append(append([]string{}, base...), "--store", "ftp://x", "--db", "sqlite:"+filepath.Join(dir, "db")), "a store's URL begins"},
		{append(append([]string{}, base...), "--store", "mem:", "--db", "mysql://x"), "begins with sqlite:"},
		{append(append(append([]string{}, base...), engines...), "--config", bad), "kees"},
		{append(append(append([]string{}, base...), engines...), "--listen", "0.0.0.0:0"), "holdfast key new"},
		{append(append(append([]string{}, base...), engines...), "--provider", "nowhere"), "http://host:port"},
		{append(append(append([]string{}, base...), engines...), "--ready-file", filepath.Join(dir, "no", "file")), "ready file"},
		{[]string{"up", "--listen", "0.0.0.0:0", "--data", dir}, "holdfast key new"},
		{[]string{"provider", "--log", filepath.Join(dir, "l"), "--faults", `{"rain":3}`}, "rain"},
		{[]string{"key", "new", "a b"}, "a b"},
		{[]string{"migrate", "--db", "postgres://127.0.0.1:1/x?connect_timeout=1"}, "127.0.0.1"},
	} {
		var out, errs bytes.Buffer
		err := run(c.args, &out, &errs)
		if err == nil || !strings.Contains(err.Error()+errs.String(), c.says) {
			t.Errorf("holdfast %s: %v (%s)", strings.Join(c.args, " "), err, errs.String())
		}
	}
}

// A check says of each part whether a server would start with it, and leaves nothing behind.
func TestConfigCheck(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	provider := start(t, "provider", "--listen", "127.0.0.1:0", "--log", file("log"), "--ready-file", file("p"))
	good := []string{"config", "check", "--store", "file:" + file("store"), "--db", "sqlite:" + file("db"),
		"--provider", "http://" + provider.address(file("p"))}
	check := func(args ...string) (said string, err error) {
		var out bytes.Buffer
		err = run(args, &out, &out)
		return out.String(), err
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	said, err := check(good...)
	if err != nil || strings.Contains(said, "FAIL") || strings.Count(said, "ok ") != 7 {
		t.Errorf("%v\n%s", err, said)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--listen", "0.0.0.0:80"}, "FAIL  listen"},
		{[]string{"--store", "file:" + file("log") + "/store"}, "FAIL  store"},
		{[]string{"--store", "redis://127.0.0.1:1"}, "FAIL  store"},
		{[]string{"--db", "mysql://x"}, "FAIL  db"},
		{[]string{"--provider", "http://127.0.0.1:1"}, "FAIL  provider"},
		{[]string{"--config", file("none")}, "FAIL  config"},
		{[]string{"--backup-dir", file("log") + "/x"}, "FAIL  backup-dir"},
		{[]string{"--backup-dir", file("log")}, "FAIL  backup-dir"},
		{[]string{"--store", "file:" + file("log")}, "FAIL  store"},
		{[]string{"--store", "file:" + file("x") + "?y"}, "FAIL  store"},
		{[]string{"--store", "file://host/x"}, "FAIL  store"},
		{[]string{"--store", "mem:x"}, "FAIL  store"},
		{[]string{"--db", "sqlite:" + dir}, "FAIL  db"},
		{[]string{"--db", "sqlite:" + file("x") + "?mode=ro"}, "FAIL  db"},
		{[]string{"--db", "sqlite::memory:"}, "FAIL  db"},
		{[]string{"--db-conns", "1001"}, "FAIL  db"},
		{[]string{"--offline", "--store", "ftp://x"}, "FAIL  store"},
		{[]string{"--offline", "--store", "redis://x/y"}, "FAIL  store"},
		{[]string{"--offline", "--db", "postgres://127.0.0.1:port/x"}, "FAIL  db"},
	} {
		said, err := check(append(append([]string{}, good...), c.args...)...)
		if err == nil || !strings.Contains(said, c.says) || strings.Count(said, "FAIL") != 1 {
			t.Errorf("%q: %v\n%s", c.args, err, said)
		}
	}
	if said, err := check(append(append([]string{}, good...), "--offline", "--store", "redis://127.0.0.1:1")...); err != nil {
		t.Errorf("offline: %v\n%s", err, said)
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("it left something: %v %v", after, err)
	}
	provider.terminate()
}

// What a server holds is there again after a backup, its end and a restore.
func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	address := free(t)
	p := start(t, "up", "--listen", address, "--data", filepath.Join(dir, "data"))
	for until := time.Now().Add(20 * time.Second); get(t, "http://"+address+"/readyz") != 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not up: %s", p.err.String())
		}
	}
	var out, errs bytes.Buffer
	if err := run([]string{"backup", "--server", "http://" + address}, &out, &errs); err != nil {
		t.Fatal(err)
	}
	p.terminate()
	made := strings.TrimSpace(out.String())
	if filepath.Dir(made) != filepath.Join(dir, "data", "backups") {
		t.Errorf("it is in %s", made)
	}
	if err := run([]string{"restore", made, "--data", filepath.Join(dir, "data")}, &out, &errs); err == nil {
		t.Error("restored over what is there")
	}
	if err := run([]string{"restore", made}, &out, &errs); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("nowhere to restore to: %v", err)
	}
	if err := run([]string{"restore", made, "--data", filepath.Join(dir, "again")}, &out, &errs); err != nil {
		t.Fatal(err)
	}
	again := start(t, "up", "--listen", address, "--data", filepath.Join(dir, "again"))
	for until := time.Now().Add(20 * time.Second); get(t, "http://"+address+"/v1/sales/demo") != 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not up: %s", again.err.String())
		}
	}
	again.terminate()
	for _, args := range [][]string{{"backup", "--server", "nowhere"}, {"backup", "--server", "http://127.0.0.1:1"}} {
		if err := run(args, &out, &errs); err == nil {
			t.Errorf("%q did not fail", args)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"version"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "holdfast ") || strings.Contains(out.String(), "mutant") {
		t.Errorf("it said %q", out.String())
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("keys:\n  - name: a\n    sha256: 00\n"))
	f.Add([]byte("keys: [{name: a}]"))
	f.Add([]byte("keys: {"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<12 {
			t.Skip()
		}
		c, err := parseConfig("f", text)
		if err != nil && len(c.Keys) > 0 {
			t.Errorf("an error and keys: %v", err)
		}
		_ = fmt.Sprint(c)
	})
}

// Who asks nothing, or for help, is told what there is.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"--help"}} {
		p := start(t, args...)
		if status := p.end(); status != 0 || !strings.Contains(p.out.String(), "Usage: holdfast <command>") ||
			!strings.Contains(p.out.String(), "drill failover") {
			t.Errorf("%q: %d\n%s%s", args, status, p.out.String(), p.err.String())
		}
	}
}
