package sentinel

import (
	"crypto/subtle"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

// level is whose commands and answers these are like.
const level = "7.0.0"

// answer answers a command. Its error is one of writing.
func (c *conn) answer(words []string) error {
	name, args := strings.ToUpper(words[0]), words[1:]
	if c.listening(name) {
		return c.refuse("ERR Can't execute '%.32s': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context", name)
	}
	switch name {
	case "PING":
		return c.ping(args)
	case "HELLO":
		return c.hello(args)
	case "AUTH":
		return c.auth(args)
	case "CLIENT":
		return c.client(args)
	case "SENTINEL":
		return c.sentinel(args)
	case "SUBSCRIBE", "PSUBSCRIBE":
		if len(args) == 0 {
			return c.wrongCount(name)
		}
		return c.subscribe(strings.ToLower(name), c.list(name), args)
	case "UNSUBSCRIBE", "PUNSUBSCRIBE":
		return c.unsubscribe(strings.ToLower(name), c.list(name), args)
	case "ROLE":
		return c.reply(func(w *resp.Writer) { w.Array(2); w.Text("sentinel"); w.Texts(c.s.cfg.Name) })
	case "INFO":
		return c.reply(func(w *resp.Writer) { w.Text(c.s.info(args)) })
	case "COMMAND":
		return c.reply(func(w *resp.Writer) { w.Array(0) }) // those who ask can do without
	case "RESET":
		return c.reset()
	case "QUIT":
		c.quit = true
		return c.ok()
	}
	return c.refuse("ERR unknown command '%.64s': this port tells where the leader is; data is at the address it tells", words[0])
}

func (c *conn) ok() error { return c.reply(func(w *resp.Writer) { w.Simple("OK") }) }

func (c *conn) refuse(format string, args ...any) error {
	return c.reply(func(w *resp.Writer) { w.Error(fmt.Sprintf(format, args...)) })
}

func (c *conn) wrongCount(name string) error {
	return c.refuse("ERR wrong number of arguments for '%.64s' command", strings.ToLower(name))
}

func (c *conn) list(name string) *[]string {
	if name[0] == 'P' {
		return &c.patterns
	}
	return &c.channels
}

func (c *conn) ping(args []string) error {
	if len(args) > 1 {
		return c.wrongCount("ping")
	}
	subscribed := c.subscriptions() > 0
	return c.reply(func(w *resp.Writer) {
		switch {
		case subscribed && !w.V3:
			w.Texts("pong", strings.Join(args, ""))
		case len(args) == 1:
			w.Text(args[0])
		default:
			w.Simple("PONG")
		}
	})
}

const wrongPassword = "WRONGPASS invalid username-password pair or user is disabled."

// knows says whether that is the password. Where there is none, any is right, as for an engine's
// user without one.
func (c *conn) knows(user, password string) bool {
	right := subtle.ConstantTimeCompare([]byte(password), []byte(c.s.cfg.Password)) == 1
	return user == "default" && (right || c.s.cfg.Password == "")
}

func (c *conn) auth(args []string) error {
	user := "default"
	switch {
	case len(args) == 0 || len(args) > 2:
		return c.wrongCount("auth")
	case len(args) == 2:
		user = args[0]
	case c.s.cfg.Password == "":
		return c.refuse("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
	}
	if !c.knows(user, args[len(args)-1]) {
		return c.refuse(wrongPassword)
	}
	return c.ok()
}

// hello answers HELLO [2|3 [AUTH user password] [SETNAME name]].
func (c *conn) hello(args []string) error {
	c.mu.Lock()
	v3 := c.v3
	c.mu.Unlock()
	name := c.name
	if len(args) > 0 {
		switch args[0] {
		case "2", "3":
			v3 = args[0] == "3"
		default:
			return c.refuse("NOPROTO unsupported protocol version")
		}
		args = args[1:]
	}
	for len(args) > 0 {
		switch option := strings.ToUpper(args[0]); {
		case option == "AUTH" && len(args) >= 3:
			if !c.knows(args[1], args[2]) {
				return c.refuse(wrongPassword)
			}
			args = args[3:]
		case option == "SETNAME" && len(args) >= 2:
			name, args = args[1], args[2:]
		default:
			return c.refuse("ERR Syntax error in HELLO option '%.32s'", args[0])
		}
	}
	c.name = name
	c.mu.Lock()
	c.v3 = v3
	c.mu.Unlock()
	return c.reply(c.greeting)
}

func (c *conn) greeting(w *resp.Writer) {
	proto := int64(2)
	if w.V3 {
		proto = 3
	}
	w.Map(6)
	w.Text("server")
	w.Text("holdfast")
	w.Text("version")
	w.Text(level)
	w.Text("proto")
	w.Int(proto)
	w.Text("id")
	w.Int(c.id)
	w.Text("mode")
	w.Text("sentinel")
	w.Text("modules")
	w.Array(0)
}

func (c *conn) client(args []string) error {
	sub := ""
	if len(args) > 0 {
		sub = strings.ToUpper(args[0])
	}
	switch {
	case sub == "SETNAME" && len(args) == 2:
		c.name = args[1]
		return c.ok()
	case sub == "GETNAME" && len(args) == 1:
		return c.reply(func(w *resp.Writer) {
			if c.name == "" {
				w.Null()
				return
			}
			w.Text(c.name)
		})
	case sub == "SETINFO" && len(args) == 3:
		return c.ok() // nobody lists clients here
	case sub == "ID" && len(args) == 1:
		return c.reply(func(w *resp.Writer) { w.Int(c.id) })
	}
	return c.refuse("ERR unknown subcommand or wrong number of arguments for 'client': here are SETNAME, GETNAME, SETINFO and ID")
}

// reset makes the connection as it was when it was new.
func (c *conn) reset() error {
	c.name = ""
	c.s.mu.Lock()
	c.channels, c.patterns = nil, nil
	c.s.mu.Unlock()
	c.mu.Lock()
	c.v3 = false
	c.mu.Unlock()
	return c.reply(func(w *resp.Writer) { w.Simple("RESET") })
}

// info answers INFO: the sections that a sentinel has and that say something here.
func (s *Server) info(sections []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := len(sections) == 0
	has := map[string]bool{}
	for _, name := range sections {
		name = strings.ToLower(name)
		has[name] = true
		all = all || name == "all" || name == "default" || name == "everything"
	}
	var b strings.Builder
	if all || has["server"] {
		fmt.Fprintf(&b, "# Server\r\nredis_version:%s\r\nredis_mode:sentinel\r\nprocess_id:%d\r\nrun_id:%s\r\n\r\n", level, os.Getpid(), runID(s.cfg.Self))
	}
	if all || has["clients"] {
		fmt.Fprintf(&b, "# Clients\r\nconnected_clients:%d\r\nmaxclients:%d\r\n\r\n", len(s.conns), s.cfg.Conns)
	}
	if all || has["sentinel"] {
		m, ok := s.master()
		status := "ok"
		if !ok {
			status, m = "odown", s.told
		}
		fmt.Fprintf(&b, "# Sentinel\r\nsentinel_masters:1\r\nmaster0:name=%s,status=%s,address=%s,slaves=%s,sentinels=%s\r\n",
			s.cfg.Name, status, m.Clients, strconv.Itoa(len(s.replicas())), strconv.Itoa(1+len(s.others())))
	}
	return b.String()
}
