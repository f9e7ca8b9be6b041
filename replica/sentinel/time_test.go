package sentinel_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dev/holdfast/replica/sentinel"
)

// silent is how long a client that does nothing more is kept, in a time that costs none.
func silent(t *testing.T, before func(c *client)) (kept time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		_, p := start(t, sentinel.Config{})
		c := p.dial(t)
		before(c)
		began := time.Now()
		_ = c.conn.SetReadDeadline(began.Add(24 * time.Hour))
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("it said something")
		}
		kept = time.Since(began)
	})
	return kept
}

func TestSilence(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(c *client)
		kept   time.Duration
	}{
		{"from the first", func(*client) {}, 10 * time.Second},
		{"after half a command", func(c *client) { _, _ = c.conn.Write([]byte("*2\r\n$4\r\nPI")) }, 10 * time.Second},
		{"after a command", func(c *client) { c.do("PING") }, 10 * time.Minute},
		{"after a command and a half", func(c *client) { c.do("PING"); _, _ = c.conn.Write([]byte("*")) }, 10 * time.Second},
		{"of a subscriber", func(c *client) { c.do("SUBSCRIBE +switch-master") }, 24 * time.Hour},
		{"of one that has unsubscribed", func(c *client) { c.do("SUBSCRIBE a"); c.do("UNSUBSCRIBE a") }, 10 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := silent(t, c.before); got != c.kept {
				t.Errorf("kept for %s, not %s", got, c.kept)
			}
		})
	}
}

// A subscriber that does not read is cut off; who reads gets everything, and nobody waits.
func TestSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := start(t, sentinel.Config{})
		slow, reads := p.dial(t), p.dial(t)
		slow.do("SUBSCRIBE +switch-master")
		reads.do("SUBSCRIBE +switch-master")
		began := time.Now()
		for i := range 100 {
			s.SetLeader(uint64(2-i%2), uint64(i))
			if got := reads.read(); !strings.Contains(got, "+switch-master") {
				t.Fatal(got)
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the others waited for %s", took)
		}
		synctest.Wait()
		if err := slow.conn.SetReadDeadline(time.Now().Add(time.Minute)); err == nil {
			got := make([]string, 0, 20)
			for {
				m, err := value(slow.r)
				if err != nil {
					break
				}
				got = append(got, m)
			}
			if len(got) > 20 {
				t.Errorf("%d messages waited", len(got))
			}
		}
		if _, err := slow.conn.Write([]byte("x")); err == nil {
			t.Error("the slow one is still connected")
		}
	})
}

// A client that does not take an answer costs its connection, and nobody waits for it.
func TestAnswerNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := start(t, sentinel.Config{})
		c, other := p.dial(t), p.dial(t)
		c.send("PING")
		if got := other.do("PING"); got != "+PONG" {
			t.Error(got)
		}
		time.Sleep(6 * time.Second) // of the bubble's time
		if _, err := c.conn.Write([]byte("x")); err == nil {
			t.Error("it is still connected")
		}
	})
}

// A node that does not answer is told to be down, so that no client tries to read from it.
func TestNodeIsDown(t *testing.T) {
	up, gone := listen(t), listen(t)
	peer := sentinel.New(sentinel.Config{Listener: up, Self: 2, Name: "holdfast", Logger: quiet})
	defer func() { _ = peer.Close() }()
	mute := listen(t) // takes connections and says nothing, like a process that is stopped
	defer func() { _ = mute.Close() }()
	_ = gone.Close()
	l := listen(t)
	s := sentinel.New(sentinel.Config{Listener: l, Self: 1, Name: "holdfast", Logger: quiet})
	defer func() { _ = s.Close() }()
	s.SetMembers([]sentinel.Member{
		{ID: 1, Clients: "10.0.0.1:7001", Sentinel: l.Addr().String(), Voter: true},
		{ID: 2, Clients: "10.0.0.2:7002", Sentinel: up.Addr().String(), Voter: true},
		{ID: 3, Clients: "10.0.0.3:7003", Sentinel: gone.Addr().String(), Voter: true},
		{ID: 4, Clients: "10.0.0.4:7004", Sentinel: mute.Addr().String(), Voter: true},
	})
	s.SetLeader(1, 1)
	c := dial(t, l)
	defer func() { _ = c.conn.Close() }()
	flags := func(command string) (all []string) {
		words := strings.Split(c.do(command), " ")
		for i, w := range words {
			if w == "flags" {
				all = append(all, words[i+2])
			}
		}
		return all
	}
	const want = "[slave s_down,slave s_down,slave]"
	got := ""
	for end := time.Now().Add(15 * time.Second); got != want && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		got = fmt.Sprint(flags("SENTINEL replicas holdfast"))
	}
	if got != want {
		t.Errorf("replicas: %s", got)
	}
	if got := fmt.Sprint(flags("SENTINEL sentinels holdfast")); got != "[sentinel s_down,sentinel s_down,sentinel]" {
		t.Errorf("sentinels: %s", got)
	}
	if got := c.do("SENTINEL ckquorum holdfast"); got != "-NOQUORUM 2 usable Sentinels. Not enough available Sentinels to reach the majority of 3" {
		t.Error(got)
	}
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
