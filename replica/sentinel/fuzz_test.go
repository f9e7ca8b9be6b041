package sentinel_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dev/holdfast/replica/resp"
	"github.com/holdfast-dev/holdfast/replica/sentinel"
)

// Whatever a client says, every answer is whole, and the server goes on with the others.
func FuzzClient(f *testing.F) {
	for _, s := range []string{"PING\nHELLO 3\nSENTINEL masters", "SUBSCRIBE a b\nPSUBSCRIBE [\nUNSUBSCRIBE\nRESET", "AUTH a b\nHELLO 3 AUTH default x SETNAME y",
		"CLIENT SETINFO a b\nINFO all\nSENTINEL is-master-down-by-addr a b c d", "QUIT\nPING"} {
		var b []byte
		for line := range strings.SplitSeq(s, "\n") {
			w := resp.Writer{B: b}
			w.Texts(strings.Split(line, " ")...)
			b = w.B
		}
		f.Add(b)
	}
	f.Add([]byte("garbage"))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) { // half a command costs ten seconds otherwise
			s, p := start(t, sentinel.Config{Password: "x"})
			c := p.dial(t)
			go func() {
				_, _ = c.conn.Write(in)
				s.SetLeader(2, 9)
				c.try("QUIT")
			}()
			_ = c.conn.SetReadDeadline(time.Now().Add(11 * time.Minute)) // who has subscribed may stay
			for {
				got, err := value(c.r)
				if got == "" && (errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded)) {
					break // the end lies between two answers
				}
				if err != nil {
					t.Fatalf("%q: %v", got, err)
				}
			}
			_ = c.conn.Close()
			if got := p.dial(t).do("PING"); got != "+PONG" {
				t.Fatal(got)
			}
		})
	})
}

// try sends to a connection that may be gone.
func (c *client) try(command string) {
	var w resp.Writer
	w.Texts(command)
	_, _ = c.conn.Write(w.B)
}
