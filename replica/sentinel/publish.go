package sentinel

import (
	"path"
	"slices"
	"strings"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

// publish gives a message to all who have subscribed, and waits for none: who does not take
// what waits for it is cut off, comes back, and asks. It needs mu.
func (s *Server) publish(channel, text string) {
	for c := range s.conns {
		if slices.Contains(c.channels, channel) {
			s.give(c, message{channel: channel, text: text})
		}
		for _, p := range c.patterns {
			if ok, err := path.Match(p, channel); ok && err == nil {
				s.give(c, message{pattern: p, channel: channel, text: text})
			}
		}
	}
}

func (s *Server) give(c *conn, m message) {
	select {
	case c.out <- m:
	default:
		s.cfg.Logger.Info("sentinel: a subscriber does not read; it is cut off", "client", c.raw.RemoteAddr().String())
		c.hangUp()
	}
}

// deliver writes messages until the connection is done.
func (c *conn) deliver() {
	for {
		select {
		case <-c.done:
			return
		case m := <-c.out:
			if err := c.reply(m.put); err != nil {
				c.hangUp()
				return
			}
		}
	}
}

func (m message) put(w *resp.Writer) {
	if m.pattern != "" {
		w.Push(4)
		w.Text("pmessage")
		w.Text(m.pattern)
	} else {
		w.Push(3)
		w.Text("message")
	}
	w.Text(m.channel)
	w.Text(m.text)
}

// subscribe answers SUBSCRIBE and PSUBSCRIBE. The confirmation leaves before any message.
func (c *conn) subscribe(kind string, list *[]string, names []string) error {
	return c.reply(func(w *resp.Writer) {
		for _, name := range names {
			count, ok := c.enlist(list, name)
			if !ok {
				w.Error("ERR too many subscriptions on one connection")
				continue
			}
			w.Push(3)
			w.Text(kind)
			w.Text(name)
			w.Int(int64(count))
		}
	})
}

func (c *conn) enlist(list *[]string, name string) (count int, ok bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !slices.Contains(*list, name) {
		if len(c.channels)+len(c.patterns) >= maxChannels {
			return 0, false
		}
		*list = append(*list, name)
	}
	if c.out == nil {
		c.out = make(chan message, maxWaiting)
		c.writer.Go(c.deliver)
	}
	return len(c.channels) + len(c.patterns), true
}

// unsubscribe answers UNSUBSCRIBE and PUNSUBSCRIBE; without names it gives up all of the kind.
func (c *conn) unsubscribe(kind string, list *[]string, names []string) error {
	return c.reply(func(w *resp.Writer) {
		if len(names) == 0 {
			names = slices.Clone(*list)
		}
		for _, name := range names {
			w.Push(3)
			w.Text(kind)
			w.Text(name)
			w.Int(int64(c.strike(list, name)))
		}
		if len(names) == 0 {
			w.Push(3)
			w.Text(kind)
			w.Null()
			w.Int(int64(c.subscriptions()))
		}
	})
}

func (c *conn) strike(list *[]string, name string) int {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	*list = slices.DeleteFunc(*list, func(n string) bool { return n == name })
	return len(c.channels) + len(c.patterns)
}

// listening says whether the version that the client chose keeps it, now that it has
// subscribed, from anything but subscriptions: the answers could not be told from messages.
func (c *conn) listening(command string) bool {
	c.mu.Lock()
	v3 := c.v3
	c.mu.Unlock()
	if v3 || c.subscriptions() == 0 {
		return false
	}
	return !strings.HasSuffix(command, "SUBSCRIBE") && command != "PING" && command != "QUIT" && command != "RESET"
}
