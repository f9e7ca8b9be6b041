package store

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestRemoteURL(t *testing.T) {
	for _, c := range []struct {
		url  string
		want address
	}{
		{"redis://localhost", address{network: "tcp", host: "localhost:6379"}},
		{"redis://127.0.0.1:7000/3", address{network: "tcp", host: "127.0.0.1:7000", db: 3}},
		{"redis://[::1]:7000/?db=3", address{network: "tcp", host: "[::1]:7000", db: 3}},
		{"redis://ann:s%2Fe%40c@h:1/0", address{network: "tcp", host: "h:1", user: "ann", password: "s/e@c"}},
		{"redis://:secret@h", address{network: "tcp", host: "h:6379", password: "secret"}},
		{"unix:/run/s.sock", address{network: "unix", host: "/run/s.sock"}},
		{"unix:run/s.sock?db=2", address{network: "unix", host: "run/s.sock", db: 2}},
		{"unix:///run/s.sock", address{network: "unix", host: "/run/s.sock"}},
		{"unix://ann:pw@/run/a%20b", address{network: "unix", host: "/run/a b", user: "ann", password: "pw"}},
		{"redis://h?prefix=app:&class=b", address{network: "tcp", host: "h:6379", prefix: "app:", class: ClassB}},
		{"redis://h?class=C", address{network: "tcp", host: "h:6379"}},
	} {
		got, err := parseRemote(c.url)
		if c.want.class == 0 {
			c.want.class = ClassC
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", c.url, got, err)
		}
	}
	got, err := parseRemote("rediss-sentinel://u:p@a,b:1/main?sentinel_username=w&sentinel_password=p%2Fw")
	if err != nil || got.tls == nil || got.tls.ServerName != "" || got.user != "u" || got.sentinelUser != "w" || got.sentinelPassword != "p/w" {
		t.Errorf("rediss-sentinel: %+v, %v", got, err)
	}
	if got, err := parseRemote("rediss://h"); err != nil || got.tls == nil || got.tls.ServerName != "h" {
		t.Errorf("rediss: %+v, %v", got, err)
	}
}

func TestRemoteURLRefused(t *testing.T) {
	for url, says := range map[string]string{
		"redis://":                      "host",
		"redis:host":                    "host",
		"redis://h/x":                   "not a number",
		"redis://h/-1":                  "not a number",
		"redis://h?db=1&db=2":           "2 times",
		"redis://h?prefx=app":           "unknown parameter",
		"redis://h?prefix={a}":          "braces",
		"redis://h?prefix=%7B":          "braces",
		"redis://h?prefix=%zz":          "percent",
		"redis://h?class=a":             "cannot be stated",
		"redis://h#1":                   "fragment",
		"unix:":                         "names a socket",
		"unix://host/run/s":             "no host",
		"redis://ann:top/secret@h":      "cannot be parsed",
		"redis://ann:top-secret@h:port": "cannot be parsed",
		"redis://h?prefix=" + strings.Repeat("p", 65): "longer",
	} {
		_, err := parseRemote(url)
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", url, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
}

// FuzzRemoteURL: whatever the URL, there is an address that can be dialed or ErrConfig.
func FuzzRemoteURL(f *testing.F) {
	for _, seed := range []string{
		"redis://u:p@h:1/2?prefix=a&class=b", "unix:/s?db=1", "rediss://[::1]", "unix://u:p@/s%20", "redis://%", "unix:%zz",
		"redis-cluster://a:1,b:2?prefix=p", "rediss-cluster://u:p@a", "rediss-sentinel://a,[::1]:2/m?sentinel_password=x", "holdfast://a:1,b:2/3",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, url string) {
		a, err := parseRemote(url)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Errorf("%q: %v", url, err)
			}
			return
		}
		someHost := a.host != "" || len(a.several)+len(a.nodes) > 0
		if !someHost || a.db < 0 || strings.ContainsAny(a.prefix, "{}") || a.class == ClassA != (len(a.nodes) > 0) {
			t.Errorf("%q: %+v", url, a)
		}
		if key := a.prefix + "x{tag}"; Slot(key) != Slot("{tag}") {
			t.Errorf("%q: the prefix moves the slot", url)
		}
	})
}

func TestAnswered(t *testing.T) {
	const inLua = " script: 1a2b, on @user_script:3."
	for text, want := range map[string]error{
		"LOADING Redis is loading the dataset in memory":                          ErrUnavailable,
		"READONLY You can't write against a read only replica.":                   ErrUnavailable,
		"READONLY You can't write against a read only replica." + inLua:           ErrUnavailable,
		"MASTERDOWN Link with MASTER is down":                                     ErrUnavailable,
		"CLUSTERDOWN Hash slot not served":                                        ErrUnavailable,
		"BUSY Redis is busy running a script.":                                    ErrUnavailable,
		"MISCONF Redis is configured to save RDB snapshots":                       ErrUnavailable,
		"NOREPLICAS Not enough good replicas to write.":                           ErrUnavailable,
		"NOAUTH Authentication required.":                                         ErrUnavailable,
		"WRONGPASS invalid username-password pair":                                ErrUnavailable,
		"NOPERM this user has no permissions to run the 'evalsha' command":        ErrUnavailable,
		"NOPERM this user has no permissions to run the 'set' command" + inLua:    ErrOutcomeUnknown,
		"MOVED 1 127.0.0.1:7000":                                                  ErrUnavailable,
		"max number of clients reached":                                           ErrUnavailable,
		"OOM command not allowed when used memory > 'maxmemory'.":                 ErrFull,
		"OOM command not allowed when used memory > 'maxmemory'." + inLua:         ErrFull,
		"WRONGTYPE Operation against a key":                                       ErrWrongType,
		"WRONGTYPE Operation against a key" + inLua:                               ErrWrongType,
		"Error running script (call to f_1): @user_script:1: WRONGTYPE Operation": ErrWrongType,
		"Error running script (call to f_1): @user_script:1: OOM command not":     ErrFull,
		"Error compiling script (new function): user_script:1":                    ErrOutcomeUnknown,
		"user_script:1: attempt to index a nil value" + inLua:                     ErrOutcomeUnknown,
		"hash value is not an integer" + inLua:                                    ErrWrongType,
		"value is not an integer or out of range":                                 ErrWrongType,
	} {
		got := answered(text)
		if !errors.Is(got, want) {
			t.Errorf("%s: %v", text, got)
		}
		for _, other := range []error{ErrUnavailable, ErrOutcomeUnknown, ErrFull, ErrWrongType} {
			if other != want && errors.Is(got, other) {
				t.Errorf("%s: is %v too", text, other)
			}
		}
	}
}
