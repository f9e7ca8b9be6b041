package sentinel_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica/sentinel"
)

func run(id int) string { return fmt.Sprintf("$40 %040x", id) }

const (
	wrong   = "-WRONGPASS invalid username-password pair or user is disabled."
	unknown = "-ERR No such master with that name"
)

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ command, want string }{
		{"ping", "+PONG"},
		{"PING hi", "$2 hi"},
		{"PING a b", "-ERR wrong number of arguments for 'ping' command"},
		{"SENTINEL get-master-addr-by-name holdfast", "*2 $8 10.0.0.1 $4 7001"},
		{"SENTINEL GET-MASTER-ADDR-BY-NAME mymaster", "*-1"},
		{"SENTINEL get-master-addr-by-name", "-ERR wrong number of arguments for 'sentinel|get-master-addr-by-name' command"},
		{"SENTINEL myid", run(3)},
		{"SENTINEL sentinels holdfast", "*0"},
		{"SENTINEL sentinels other", unknown},
		{"SENTINEL replicas other", unknown},
		{"SENTINEL master other", unknown},
		{"SENTINEL ckquorum other", unknown},
		{"SENTINEL ckquorum holdfast", "+OK 3 usable Sentinels. Quorum and failover authorization can be reached"},
		{"SENTINEL is-master-down-by-addr 10.0.0.1 7001 0 *", "*3 :0 $1 * :0"},
		{"SENTINEL failover holdfast", "-ERR unknown subcommand 'failover': nothing can be changed here; 'holdfast node' has transfer, join and leave"},
		{"SENTINEL", "-ERR wrong number of arguments for 'sentinel' command"},
		{"ROLE", "*2 $8 sentinel *1 $8 holdfast"},
		{"CLIENT SETNAME me", "+OK"},
		{"CLIENT SETINFO LIB-NAME x", "+OK"},
		{"CLIENT ID", ":1"},
		{"CLIENT KILL x", "-ERR unknown subcommand or wrong number of arguments for 'client': here are SETNAME, GETNAME, SETINFO and ID"},
		{"CLIENT", "-ERR unknown subcommand or wrong number of arguments for 'client': here are SETNAME, GETNAME, SETINFO and ID"},
		{"COMMAND", "*0"},
		{"SUBSCRIBE", "-ERR wrong number of arguments for 'subscribe' command"},
		{"HELLO 4", "-NOPROTO unsupported protocol version"},
		{"HELLO 3 AUTH x", "-ERR Syntax error in HELLO option 'AUTH'"},
		{"AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"},
		{"AUTH default x", "+OK"},
		{"AUTH eve x", wrong},
		{"GET k", "-ERR unknown command 'GET': this port tells where the leader is; data is at the address it tells"},
		{"RESET", "+RESET"},
	} {
		_, p := start(t, sentinel.Config{})
		if got := p.dial(t).do(c.command); got != c.want {
			t.Errorf("%s: %s", c.command, got)
		}
	}
}

func TestAnswersInDetail(t *testing.T) {
	_, p := start(t, sentinel.Config{})
	for version, kind := range map[string]string{"2": "*20", "3": "%10"} {
		c := p.dial(t)
		if hello := c.do("HELLO " + version); !strings.Contains(hello, "$5 proto :"+version) || !strings.Contains(hello, "$4 mode $8 sentinel") {
			t.Errorf("HELLO: %s", hello)
		}
		master := kind + " $4 name $8 holdfast $2 ip $8 10.0.0.1 $4 port $4 7001 $5 runid " + run(1) +
			" $5 flags $6 master $13 role-reported $6 master $12 config-epoch $1 5 $10 num-slaves $1 2 $19 num-other-sentinels $1 0 $6 quorum $1 2"
		if got := c.do("SENTINEL master holdfast"); got != master {
			t.Errorf("master: %s", got)
		}
		if got := c.do("SENTINEL masters"); got != "*1 "+master {
			t.Errorf("masters: %s", got)
		}
		replica := func(addr, host, port string, id int) string {
			return fmt.Sprintf(" %s $4 name $%d %s $2 ip $%d %s $4 port $4 %s $5 runid %s $5 flags $5 slave", kind, len(addr), addr, len(host), host, port, run(id)) +
				" $13 role-reported $5 slave $18 master-link-status $2 ok $11 master-host $8 10.0.0.1 $11 master-port $4 7001 $14 slave-priority $3 100"
		}
		want := "*2" + replica("10.0.0.2:7002", "10.0.0.2", "7002", 2) + replica("db3.example:7003", "db3.example", "7003", 3)
		for _, command := range []string{"replicas", "slaves"} {
			if got := c.do("SENTINEL " + command + " holdfast"); got != want {
				t.Errorf("%s: %s", command, got)
			}
		}
		if got := c.do("INFO sentinel"); !strings.Contains(got, "master0:name=holdfast,status=ok,address=10.0.0.1:7001,slaves=2,sentinels=1") || strings.Contains(got, "redis_version") {
			t.Errorf("INFO: %s", got)
		}
	}
}

func TestPassword(t *testing.T) {
	_, p := start(t, sentinel.Config{Password: "p4ss"})
	for command, want := range map[string]string{
		"AUTH p4ss": "+OK", "AUTH default p4ss": "+OK", "AUTH wrong": wrong, "AUTH default wrong": wrong, "AUTH eve p4ss": wrong,
		"HELLO 3 AUTH default wrong": wrong, "HELLO 3 AUTH eve p4ss": wrong,
		"SENTINEL get-master-addr-by-name holdfast": "*2 $8 10.0.0.1 $4 7001", // it is not asked for
	} {
		if got := p.dial(t).do(command); got != want {
			t.Errorf("%s: %s", command, got)
		}
	}
	if got := p.dial(t).do("HELLO 3 AUTH default p4ss SETNAME me"); !strings.HasPrefix(got, "%6") {
		t.Error(got)
	}
}

// While this node knows of no leader a client is sent on to the next sentinel.
func TestNoLeader(t *testing.T) {
	s, p := start(t, sentinel.Config{})
	s.SetLeader(0, 6)
	c := p.dial(t)
	for command, want := range map[string]string{
		"SENTINEL get-master-addr-by-name holdfast":           "*-1",
		"SENTINEL ckquorum holdfast":                          "-NOQUORUM this node knows of no leader",
		"SENTINEL is-master-down-by-addr 10.0.0.1 7001 0 *":   "*3 :1 $1 * :0",
		"SENTINEL is-master-down-by-addr 10.0.0.2 7002 0 any": "*3 :0 $1 * :0",
	} {
		if got := c.do(command); got != want {
			t.Errorf("%s: %s", command, got)
		}
	}
	if got := c.do("SENTINEL masters"); !strings.Contains(got, "$2 ip $8 10.0.0.1 ") || !strings.Contains(got, "$5 flags $20 s_down,o_down,master") {
		t.Error(got)
	}
	if got := c.do("HELLO 3"); got == "" {
		t.Error(got)
	}
	if got := c.do("SENTINEL get-master-addr-by-name holdfast"); got != "_" {
		t.Error(got)
	}
}

// Who subscribes hears of each change of the leader's address, once, and of nothing else.
func TestSwitch(t *testing.T) {
	s, p := start(t, sentinel.Config{})
	two, three3, all := p.dial(t), p.dial(t), p.dial(t)
	three3.do("HELLO 3")
	if got := two.do("SUBSCRIBE +switch-master"); got != "*3 $9 subscribe $14 +switch-master :1" {
		t.Fatal(got)
	}
	if got := three3.do("SUBSCRIBE +switch-master"); got != ">3 $9 subscribe $14 +switch-master :1" {
		t.Fatal(got)
	}
	if got := all.do("PSUBSCRIBE *"); got != "*3 $10 psubscribe $1 * :1" {
		t.Fatal(got)
	}
	if got := two.do("SENTINEL masters"); !strings.HasPrefix(got, "-ERR Can't execute 'SENTINEL'") {
		t.Error(got)
	}
	if got := two.do("PING"); got != "*2 $4 pong $0 " && got != "*2 $4 pong $0" {
		t.Errorf("%q", got)
	}
	s.SetLeader(1, 6) // the same one again
	s.SetLeader(0, 7)
	s.SetMembers(three)
	s.SetLeader(2, 8)
	s.SetLeader(2, 8)
	s.SetLeader(3, 9)
	if got := p.dial(t).do("SENTINEL get-master-addr-by-name holdfast"); got != "*2 $11 db3.example $4 7003" {
		t.Fatalf("the third leads, and it names %s", got)
	}
	const first, second = "holdfast 10.0.0.1 7001 10.0.0.2 7002", "holdfast 10.0.0.2 7002 db3.example 7003"
	for _, text := range []string{first, second} {
		want := fmt.Sprintf("$7 message $14 +switch-master $%d %s", len(text), text)
		if got := two.read(); got != "*3 "+want {
			t.Errorf("%s", got)
		}
		if got := three3.read(); got != ">3 "+want {
			t.Errorf("%s", got)
		}
		if got := all.read(); got != fmt.Sprintf("*4 $8 pmessage $1 * $14 +switch-master $%d %s", len(text), text) {
			t.Errorf("%s", got)
		}
	}
	// With version 3 anything may be asked meanwhile.
	if got := three3.do("SENTINEL get-master-addr-by-name holdfast"); got != "*2 $11 db3.example $4 7003" {
		t.Error(got)
	}
	if got := two.do("UNSUBSCRIBE"); got != "*3 $11 unsubscribe $14 +switch-master :0" {
		t.Error(got)
	}
	if got := two.do("UNSUBSCRIBE"); got != "*3 $11 unsubscribe $-1 :0" {
		t.Error(got)
	}
	s.SetLeader(1, 10)
	if got := two.do("PING"); got != "+PONG" {
		t.Error(got)
	}
}

// What is published in the moment of subscribing comes after the confirmation.
func TestConfirmationComesFirst(t *testing.T) {
	s, p := start(t, sentinel.Config{})
	for i := range uint64(200) {
		c := p.dial(t)
		c.send("SUBSCRIBE +switch-master")
		for k := range uint64(8) { // fewer than may wait
			s.SetLeader(1+k%2, i*8+k)
		}
		if got := c.read(); !strings.HasPrefix(got, "*3 $9 subscribe") {
			t.Fatalf("first comes %s", got)
		}
	}
}

func TestTooManySubscriptions(t *testing.T) {
	_, p := start(t, sentinel.Config{})
	c := p.dial(t)
	for i := range 32 {
		if got := c.do(fmt.Sprint("SUBSCRIBE c", i)); !strings.HasSuffix(got, fmt.Sprint(":", i+1)) {
			t.Fatal(got)
		}
	}
	if got := c.do("PSUBSCRIBE x*"); got != "-ERR too many subscriptions on one connection" {
		t.Error(got)
	}
	if got := c.do("SUBSCRIBE c1"); got != "*3 $9 subscribe $2 c1 :32" {
		t.Error(got)
	}
}

func TestGarbage(t *testing.T) {
	_, p := start(t, sentinel.Config{})
	for _, in := range []string{"GET / HTTP/1.1\r\n", "*33\r\n", "*1\r\n$4097\r\n", "\x16\x03\x01\x02\x00\n", strings.Repeat("x", 512)} {
		c := p.dial(t)
		if _, err := c.conn.Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if got := c.read(); !strings.HasPrefix(got, "-ERR Protocol error: not a command: ") {
			t.Errorf("%.20q: %s", in, got)
		}
		if !c.ended() {
			t.Errorf("%.20q: the connection goes on", in)
		}
	}
	c := p.dial(t)
	if got := c.do("QUIT"); got != "+OK" || !c.ended() {
		t.Error(got)
	}
}

// Thousands of connections that say nothing cost little, and beyond the limit they are refused.
func TestIdleConnections(t *testing.T) {
	const many = 2000
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := sentinel.New(sentinel.Config{Listener: l, Self: 1, Name: "holdfast", Conns: many, Logger: quiet})
	defer func() { _ = s.Close() }()
	s.SetMembers(three)
	s.SetLeader(1, 1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	all := make([]*client, many)
	for i := range all {
		all[i] = dial(t, l)
		defer func() { _ = all[i].conn.Close() }()
	}
	last := all[many-1]
	began := time.Now()
	if got := last.do("SENTINEL get-master-addr-by-name holdfast"); got != "*2 $8 10.0.0.1 $4 7001" {
		t.Fatal(got)
	}
	took := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / many
	t.Logf("%d bytes a connection, both ends; answered within %s", each, took)
	if each > 32<<10 {
		t.Errorf("%d bytes a connection", each)
	}
	if got := dial(t, l).read(); got != "-ERR max number of clients reached" {
		t.Error(got)
	}
	_ = last.conn.Close()
	for end := time.Now().Add(10 * time.Second); ; {
		c := dial(t, l)
		c.send("PING")
		got, err := value(c.r)
		_ = c.conn.Close()
		if err == nil && got == "+PONG\r\n" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a place that was given up is not taken again: %q, %v", got, err)
		}
	}
}

func dial(t testing.TB, l net.Listener) *client {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}
