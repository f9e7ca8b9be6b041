package sentinel

import (
	"fmt"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

// sentinel answers SENTINEL's questions. What would change something is refused: nodes decide
// among themselves.
func (c *conn) sentinel(args []string) error {
	if len(args) == 0 {
		return c.wrongCount("sentinel")
	}
	sub := strings.ToUpper(args[0])
	count, known := questions[sub]
	switch {
	case !known:
		return c.refuse("ERR unknown subcommand '%.32s': nothing can be changed here; 'holdfast node' has transfer, join and leave", args[0])
	case len(args) != count+1:
		return c.wrongCount("sentinel|" + sub)
	case count == 1 && args[1] != c.s.cfg.Name && sub != "GET-MASTER-ADDR-BY-NAME":
		return c.refuse("ERR No such master with that name")
	}
	return c.reply(func(w *resp.Writer) {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.s.tellAbout(w, sub, args[1:])
	})
}

// questions, with how many words follow.
var questions = map[string]int{
	"MYID": 0, "MASTERS": 0, "MASTER": 1, "GET-MASTER-ADDR-BY-NAME": 1, "REPLICAS": 1, "SLAVES": 1,
	"SENTINELS": 1, "CKQUORUM": 1, "IS-MASTER-DOWN-BY-ADDR": 4,
}

// tellAbout needs mu.
func (s *Server) tellAbout(w *resp.Writer, question string, args []string) {
	switch question {
	case "MYID":
		w.Text(runID(s.cfg.Self))
	case "GET-MASTER-ADDR-BY-NAME":
		s.address(w, args[0])
	case "MASTERS":
		w.Array(1)
		s.describeMaster(w)
	case "MASTER":
		s.describeMaster(w)
	case "REPLICAS", "SLAVES":
		all := s.replicas()
		w.Array(len(all))
		for _, m := range all {
			s.describeReplica(w, m)
		}
	case "SENTINELS":
		all := s.others()
		w.Array(len(all))
		for _, m := range all {
			put(w, s.common(m.Sentinel, m, "sentinel"))
		}
	case "CKQUORUM":
		s.quorum(w)
	case "IS-MASTER-DOWN-BY-ADDR": // asked by sentinels who would elect: here nobody votes
		_, ok := s.master()
		host, port := split(s.told.Clients)
		w.Array(3)
		w.Int(truth(!ok && args[0] == host && args[1] == port))
		w.Text("*")
		w.Int(0)
	}
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// address of the leader; null for another name, and while nobody is known to lead: the client
// asks the next one, which may know.
func (s *Server) address(w *resp.Writer, name string) {
	m, ok := s.named()
	if !ok || name != s.cfg.Name {
		w.NullArray()
		return
	}
	host, port := split(m.Clients)
	w.Texts(host, port)
}

// named is who is told to lead.
func (s *Server) named() (Member, bool) {
	if mutant.StayWithFirst {
		return s.told, s.told.Clients != ""
	}
	return s.master()
}

// runID is a node's id in the form of a sentinel's.
func runID(id uint64) string { return fmt.Sprintf("%040x", id) }

// field and value, in order.
type pairs [][2]string

func put(w *resp.Writer, p pairs) {
	w.Map(len(p))
	for _, f := range p {
		w.Text(f[0])
		w.Text(f[1])
	}
}

// common is what is told of any node. A client takes flags for what matters: who is s_down is
// left alone.
func (s *Server) common(addr string, m Member, kind string) pairs {
	host, port := split(addr)
	p := pairs{{"name", addr}, {"ip", host}, {"port", port}, {"runid", runID(m.ID)}}
	if since := s.silent(m.ID); since > 0 {
		return append(p, [2]string{"flags", "s_down," + kind}, [2]string{"s-down-time", ms(since)})
	}
	return append(p, [2]string{"flags", kind})
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (s *Server) describeMaster(w *resp.Writer) {
	m, ok := s.named()
	flags := "master"
	if !ok { // the last one is named, as one that is down
		m, flags = s.told, "s_down,o_down,master"
	}
	host, port := split(m.Clients)
	put(w, pairs{{"name", s.cfg.Name}, {"ip", host}, {"port", port}, {"runid", runID(m.ID)}, {"flags", flags},
		{"role-reported", "master"}, {"config-epoch", strconv.FormatUint(s.term, 10)},
		{"num-slaves", strconv.Itoa(len(s.replicas()))}, {"num-other-sentinels", strconv.Itoa(len(s.others()))},
		{"quorum", strconv.Itoa(s.majority())}})
}

func (s *Server) describeReplica(w *resp.Writer, m Member) {
	link := "ok"
	master, ok := s.master()
	if !ok || s.silent(m.ID) > 0 {
		link = "err"
	}
	if !ok {
		master = s.told
	}
	host, port := split(master.Clients)
	put(w, append(s.common(m.Clients, m, "slave"), pairs{{"role-reported", "slave"}, {"master-link-status", link},
		{"master-host", host}, {"master-port", port}, {"slave-priority", "100"}}...))
}

// replicas are the nodes that do not lead.
func (s *Server) replicas() (all []Member) {
	m, ok := s.master()
	if !ok {
		m = s.told
	}
	for _, k := range s.members {
		if k.ID != m.ID {
			all = append(all, k)
		}
	}
	return all
}

// others are the other nodes that answer as this one does.
func (s *Server) others() (all []Member) {
	for _, m := range s.members {
		if m.ID != s.cfg.Self && m.Sentinel != "" {
			all = append(all, m)
		}
	}
	return all
}

// quorum says whether a failover could be.
func (s *Server) quorum(w *resp.Writer) {
	usable := 0
	for _, m := range s.members {
		if m.Voter && s.silent(m.ID) == 0 {
			usable++
		}
	}
	_, ok := s.master()
	switch {
	case !ok:
		w.Error("NOQUORUM this node knows of no leader")
	case usable < s.majority():
		w.Error(fmt.Sprintf("NOQUORUM %d usable Sentinels. Not enough available Sentinels to reach the majority of %d", usable, s.majority()))
	default:
		w.Simple(fmt.Sprintf("OK %d usable Sentinels. Quorum and failover authorization can be reached", usable))
	}
}
