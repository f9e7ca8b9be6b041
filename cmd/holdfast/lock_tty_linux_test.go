package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal: what a person types into, and what a program has.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { _ = person.Close() })
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		program, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return person, program
}

// At a terminal the command reads what is typed, gets what Ctrl-C sends, and does so once.
func TestLockRunAtATerminal(t *testing.T) {
	t.Parallel()
	p := &lockPlace{T: t, dir: t.TempDir()}
	address := free(t)
	p.at = []string{"--server", "http://" + address}
	p.serve(address)
	person, program := terminal(t)
	const script = `trap 'echo int >>"$DIR/ints"' INT; read line; echo "$line" >"$DIR/line"; until [ -e "$DIR/go" ]; do sleep 0.02; done; exit 9`
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(append([]string{"lock", "run"}, p.at...), "the lock", "--", "sh", "-c", "DIR="+p.dir+"; "+script)...)
	cmd.Env = append(os.Environ(), "HOLDFAST_TEST_AS_COMMAND=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := person.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	p.untilText("line", "hello")
	if _, err := person.WriteString("\x03"); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	p.untilText("ints", "int")
	p.touch("go")
	_ = cmd.Wait() // the status says how
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit status %d", code)
	}
	if ints := p.text("ints"); ints != "int" {
		t.Errorf("Ctrl-C came as %q", ints)
	}
}
