package storetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// errRefused is the server's own error reply.
var errRefused = errors.New("refused by the server")

// Admin sends one command to the server past everything that is under test, on a connection
// of its own. It returns the reply as text, lists in brackets, and fails the test when the
// server refuses.
func (s *Server) Admin(t testing.TB, command string) string {
	t.Helper()
	reply, err := s.ask(command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return reply
}

func (s *Server) ask(command string) (string, error) {
	return ask("unix", s.socket(), s.password, command)
}

func ask(network, addr, password, command string) (string, error) {
	conn, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(startWithin)); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	if password != "" {
		if _, err := conn.Write([]byte("AUTH " + password + "\r\n")); err != nil {
			return "", err
		}
		if _, err := readReply(r); err != nil {
			return "", err
		}
	}
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	return readReply(r)
}

// readReply reads one reply of the protocol's second version.
func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, text := line[0], strings.TrimRight(line[1:], "\r\n")
	if kind == '-' {
		return "", fmt.Errorf("%w: %s", errRefused, text)
	}
	if kind == '+' || kind == ':' {
		return text, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < -1 || n > 64<<20 {
		return "", fmt.Errorf("not a reply: %q", line)
	}
	if n == -1 {
		return "(none)", nil
	}
	if kind == '$' {
		b := make([]byte, n+2)
		_, err := io.ReadFull(r, b)
		return string(b[:n]), err
	}
	list := make([]string, n)
	for i := range list {
		if list[i], err = readReply(r); err != nil {
			return "", err
		}
	}
	return "[" + strings.Join(list, " ") + "]", nil
}
