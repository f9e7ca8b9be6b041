package replica

import "testing"

// Only who knows of the members at an entry at which this node was one, or at a later one, can say that it was removed.
func TestRemovedBy(t *testing.T) {
	for _, c := range []struct {
		what     string
		memberAt uint64
		said     standing
		want     bool
	}{
		{"a member", 10, standing{Index: 20}, false},
		{"a peer that has not seen it come", 10, standing{Index: 9, Stranger: true}, false},
		{"a peer that saw it come, and go", 10, standing{Index: 10, Stranger: true}, true},
		{"one that has not seen itself come", 0, standing{Index: 20, Stranger: true}, false},
		{"a peer of an older version", 10, standing{}, false},
	} {
		n := &Node{memberAt: c.memberAt}
		if got := n.removedBy(c.said); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	n := &Node{members: []Member{{ID: 2}}}
	if n.standingOf(1).Stranger {
		t.Error("a node that has applied nothing calls another one a stranger")
	}
	n.index = 5
	if got := n.standingOf(1); got != (standing{5, true}) {
		t.Errorf("of a stranger: %+v", got)
	}
	if got := n.standingOf(2); got != (standing{5, false}) {
		t.Errorf("of a member: %+v", got)
	}
}
