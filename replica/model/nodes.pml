/*
 * Three nodes, each with an engine and a gate, as README.md in replica/ describes them.
 *
 * The network loses, repeats and delays. It is modelled by what was ever sent: a leader's
 * log of term t, LOG(t, ...), only grows, and whoever has not gone past term t may take any part of it
 * at any time, once, twice or never. So it is with heartbeats. An answer counts when it
 * is given, or never: later is no more than a step of the leader that comes later.
 *
 * With three nodes a majority is the node itself and one other, and an election is one step.
 *
 * An engine's stream is a sequence of effects, each of which is one of W writes; an offset is
 * how many there were. A reply stands for what its client has learned: the first
 * m effects. A write's reply and a read's are alike in that.
 *
 * What is asserted is what clients see (see release): all replies that left agree on one sequence,
 * and a reply has everything that any reply had which left before the command was sent.
 *
 * -D switches: W, TERMS, CRASHES are bounds; with STAYS a leader resigns only when it hears of a newer
 * one. The rest are mutants (scripts/model lists them), or REACH=n, which asserts that something never happens that has to.
 */

#ifndef W
#define W 2            /* writes, at most 3 */
#endif
#ifndef TERMS
#define TERMS 3        /* at most 3 */
#endif
#ifndef CRASHES
#define CRASHES 1      /* nodes that end and start again: log kept, engine empty */
#endif
#ifndef REACH
#define REACH 0
#endif

#define N 3
#define EPOCHS TERMS
#define ENTRIES (W + 2*(TERMS-1))

/* The log of the leader of term t. An entry is one byte. */
byte L[(TERMS+1)*ENTRIES];
#define LOG(t, k) L[(t)*ENTRIES + (k)]
#define NOTHING 0
#define CHUNK(epoch, from, w) (64 + (epoch)*16 + (from)*4 + (w))
#define DECL(after, replid, start) (128 + (after)*32 + (replid)*4 + (start))

byte size[TERMS+1];    /* of that log */
byte base[TERMS+1];    /* how much of it the leader had when it won */
byte leader[TERMS+1];  /* who won term t */
byte acked[TERMS+1];   /* the most that another node has acknowledged to the leader */
byte told[TERMS+1];    /* what the leader says is committed */
#ifdef LATE
bit ever[TERMS+1];     /* an answer to some heartbeat of term t was sent */
#endif
byte newest = 1;       /* term */

/* consensus: on disk */
byte term[N] = 1;
byte from[N] = 1;      /* a node's log is the first logged[n] entries of LOG(from[n]) */
byte logged[N];
/* consensus: in memory */
bit leads[N];
byte applied[N];

/* core.State of each node: what the applied part of its log means */
byte epochs[N] = 1;
byte replids[N*EPOCHS];
byte starts[N*EPOCHS];
byte offset[N];
byte effects[N*W];
#define REPLID(n, e) replids[(n)*EPOCHS + (e) - 1]
#define START(n, e) starts[(n)*EPOCHS + (e) - 1]
#define EFFECT(n, k) effects[(n)*W + (k)]

/* core.Core: term[n] when it leads, as the core has heard; 0 otherwise */
byte hears[N];

/* the engine */
#define STRAY 0
#define FOLLOWS 1
#define PROMOTED 2
byte mode[N] = FOLLOWS;
byte replid[N];        /* 0: of no use */
byte at[N];            /* its offset */
byte holds[N*W];       /* its effects */
#define HOLDS(n, k) holds[(n)*W + (k)]

/* the session: its epoch, and how much of the stream the log was given */
byte epoch[N];
byte given[N];

/* the gate, and one reply that it holds: of a command that had come when clients knew of
   `knew` effects, and that tells of the first `tells` */
bit open[N];
bit held[N];
bit verified[N];
byte tells[N];
byte knew[N];

byte writes, crashes;

/* what clients know */
byte known[W];
byte knows;

#if REACH == 4
byte restarted;        /* 1 + the node */
#elif REACH == 5
byte knowing;          /* the term of the reply that told it */
#endif

hidden byte i, k, e, x;

inline dropHeld(n) { held[n] = 0; verified[n] = 0; tells[n] = 0; knew[n] = 0 }
inline shut(n) { open[n] = 0; dropHeld(n) }
inline wipe(n) {
	at[n] = 0; replid[n] = 0;
	for (i : 0 .. W-1) { HOLDS(n, i) = 0 }
}

/* ---- the gate ---- */

#ifdef ANYTERM
#define mayAsk(n) leads[n]
#else
#define mayAsk(n) (leads[n] && term[n] == hears[n])
#endif
/* committed, as far as this gate was told: Node.Apply, Gate.Committed */
#ifdef EARLY
#define mayRelease(n) (held[n] && verified[n] && tells[n] <= given[n])
#else
#define mayRelease(n) (held[n] && verified[n] && epochs[n] >= epoch[n] && \
	tells[n] <= (epochs[n] > epoch[n] -> START(n, epoch[n]+1) : offset[n]))
#endif

/* at once: a reply that leaves later is bound by less and shows less */
inline release(n) {
	if
	:: mayRelease(n) ->
		assert(tells[n] >= knew[n]);
		for (i : 0 .. W-1) {
			if
			:: i < tells[n] && i < knows -> assert(HOLDS(n, i) == known[i])
			:: i < tells[n] && i >= knows -> known[i] = HOLDS(n, i)
			:: else
			fi
		}
#if REACH == 1 /* a write that was answered in term 1 is read in a later one */
		assert(!(term[n] > 1 && knows > 0 && tells[n] >= knows));
#elif REACH == 4 /* a node that was started again leads, and answers */
		assert(!(restarted == n+1));
#elif REACH == 5 /* a node leads, another does and answers a write, the first one leads again and reads it */
		assert(!(term[n] == 3 && leader[3] == 0 && leader[2] == 1 && knowing == 2));
#endif
#if REACH == 5
		if
		:: tells[n] > knows -> knowing = term[n]
		:: else
		fi;
#endif
		if
		:: tells[n] > knows -> knows = tells[n]
		:: else
		fi;
		dropHeld(n)
	:: else
	fi
}

/* Gate.round: a reply was read and the offset asked for; then leadership is asked for, unless
   the log was not given that offset yet: its commit will prove as much */
inline collect(n) {
	held[n] = 1; tells[n] = at[n]; knew[n] = knows;
	verified[n] = (at[n] > given[n]);
#ifdef NOVERIFY
	verified[n] = 1;
#endif
#ifdef LATE
	verified[n] = verified[n] || ever[term[n]];
#endif
	release(n)
}
#ifdef NOVERIFY
#define mayCollect(n) (open[n] && !held[n] && (at[n] > 0 || knows > 0))
#else
#define mayCollect(n) (open[n] && !held[n] && (at[n] > 0 || knows > 0) && mayAsk(n))
#endif

/* Lead: the gate opens, which it does at once: nobody need come */
#define mayLead(n) (!open[n] && hears[n] != 0 && mode[n] == PROMOTED && REPLID(n, epochs[n]) == replid[n])

/* State.Apply, for all entries up to upto */
inline apply(n, upto) {
	for (k : applied[n] .. upto-1) {
		e = LOG(from[n], k);
		if
		:: e >= 128 ->
			if
			:: (e/32) % 4 == epochs[n] && e % 4 == offset[n] ->
				epochs[n]++;
				REPLID(n, epochs[n]) = (e/4) % 8;
				START(n, epochs[n]) = offset[n];
				if
				:: mode[n] == PROMOTED && replid[n] != (e/4) % 8 -> mode[n] = STRAY
				:: else
				fi
			:: else
			fi
		:: e < 128 && e >= 64 ->
			if
			:: (e/16) % 4 == epochs[n] && (e/4) % 4 == offset[n] ->
				EFFECT(n, offset[n]) = e % 4;
				offset[n]++
			:: else
			fi
		:: else
		fi
	}
	applied[n] = upto;
	if
	:: mayLead(n) -> open[n] = 1
	:: else
	fi;
	release(n)
}

/* x = where epoch y ended, as far as node n has applied the log */
inline endOf(n, y) {
	if
	:: y < epochs[n] -> x = START(n, y+1)
	:: else -> x = offset[n]
	fi
}

inline append(n, entry) {
	LOG(term[n], size[term[n]]) = entry;
	size[term[n]]++;
	logged[n] = size[term[n]]
}

#define barrier(n) (hears[n] == 1 || hears[n] != 0 && from[n] == hears[n] && applied[n] > base[hears[n]])

/* State.Resume and Core.Resume; k: CONTINUE, FULL or WAIT */
#define CONTINUE 0
#define FULL 1
#define WAIT 2
inline resume(n) {
	k = FULL;
	if
	:: replid[n] != 0 ->
		for (i : 1 .. epochs[n]) {
			if
			:: REPLID(n, i) == replid[n] ->
				endOf(n, i);
				if
				:: at[n] < START(n, i)
				:: at[n] >= START(n, i) && at[n] <= x -> k = CONTINUE
				:: else ->
					if
					:: i == epochs[n] && !(barrier(n) && given[n] <= offset[n]) -> k = WAIT
					:: else
					fi
				fi
			:: else
			fi
		}
	:: else
	fi
}
/* while it waits nothing changes */
#define mayFollow(n) !(replid[n] != 0 && REPLID(n, epochs[n]) == replid[n] && at[n] > offset[n] && !(barrier(n) && given[n] <= offset[n]))

/* ---- consensus ---- */

/* whoever led an earlier term steps down; answers to what it asked come too late */
inline resign(n) {
	if
	:: leads[n] ->
		leads[n] = 0; acked[term[n]] = 0;
		if
		:: !verified[n] -> dropHeld(n) /* reads.during: the gate hears that it was not confirmed */
		:: else
		fi
	:: else
	fi
}
inline raise(n, t) {
	if
	:: term[n] < t -> resign(n); term[n] = t
	:: else
	fi
}

/* n stands, and other votes for it */
inline elect(n, other) {
	resign(n); resign(other);
	newest++;
	term[n] = newest; term[other] = newest; leader[newest] = n;
	leads[n] = 1;
	base[newest] = logged[n];
	size[newest] = logged[n];
	for (k : 0 .. ENTRIES-1) {
		if
		:: k < logged[n] -> LOG(newest, k) = LOG(from[n], k)
		:: else
		fi
	}
	from[n] = newest;
	append(n, NOTHING)
}
#define mayElect(n, other) (newest < TERMS && n != other && (from[n] > from[other] || from[n] == from[other] && logged[n] >= logged[other]))

#define hearsFrom(n, t) (t <= newest && leader[t] != n && term[n] <= t)

/* all that the leader of term t has sent so far */
inline take(n, t) {
	raise(n, t);
	from[n] = t;
	logged[n] = size[t];
	if
	:: leads[leader[t]] && term[leader[t]] == t && acked[t] < size[t] -> acked[t] = size[t]
	:: else
	fi
}
#define mayTake(n, t) (hearsFrom(n, t) && (from[n] < t || logged[n] < size[t]))

/* the leader of term t asks who still takes it for the leader; an answer counts at once, or never */
#define asks(n, t) (held[n] && !verified[n] && leads[n] && term[n] == t)
#ifdef LATE
#define news(t) (asks(leader[t], t) || !ever[t])
#else
#define news(t) asks(leader[t], t)
#endif
inline heartbeat(n, t) {
	raise(n, t);
	if
	:: from[n] == t ->
		x = (told[t] < logged[n] -> told[t] : logged[n]);
		if
		:: x > applied[n] -> apply(n, x)
		:: else
		fi
	:: else
	fi;
#ifdef LATE
	ever[t] = 1;
#endif
	if
	:: asks(leader[t], t) -> verified[leader[t]] = 1; release(leader[t])
	:: else
	fi
}
/* an engine that follows has no use for it before its node leads */
#define learns(n, t) (mode[n] != FOLLOWS && from[n] == t && applied[n] < told[t] && applied[n] < logged[n])

inline commit(n) {
	apply(n, acked[term[n]]);
	told[term[n]] = applied[n];
	/* what clients were told is in every later leader's log */
	if
	:: term[n] == newest ->
		assert(offset[n] >= knows);
		for (i : 0 .. W-1) {
			assert(i >= knows || EFFECT(n, i) == known[i])
		}
	:: else
	fi
}
#define mayCommit(n) (leads[n] && acked[term[n]] > applied[n] && acked[term[n]] > base[term[n]])

#ifdef NOFSYNC
#define mayRestart(n) 1
#else
#define mayRestart(n) (leads[n] || hears[n] || mode[n] != FOLLOWS || at[n] > 0 || applied[n] > 0)
#endif
inline restart(n) {
	crashes++;
#if REACH == 4
	restarted = n+1;
#endif
	resign(n);
	hears[n] = 0;
	shut(n);
	mode[n] = FOLLOWS;
	wipe(n);
	epoch[n] = 0; given[n] = 0;
	applied[n] = 0; epochs[n] = 1; offset[n] = 0;
	for (i : 0 .. W-1) { EFFECT(n, i) = 0 }
	for (i : 2 .. EPOCHS) { REPLID(n, i) = 0; START(n, i) = 0 }
#ifdef NOFSYNC
	from[n] = 1; logged[n] = 0
#endif
}

/* ---- the node ---- */

/* Node.watch: it comes later than what it sees */
inline watch(n) {
	hears[n] = (leads[n] -> term[n] : 0);
	shut(n);
	given[n] = 0; epoch[n] = 0;
	if
	:: mode[n] == PROMOTED -> mode[n] = STRAY
	:: else
	fi
}
#define mayWatch(n) (hears[n] != (leads[n] -> term[n] : 0))

/* Node.follow, and what the feed says to the engine that comes */
inline follow(n) {
	shut(n);
	resume(n);
#if REACH == 2 /* an engine that has what was never committed, in the place of what clients know, comes back */
	assert(!(k == FULL && replid[n] != 0 && at[n] > 0 && knows > 0 && HOLDS(n, 0) != known[0]));
#elif REACH == 3 /* the engine of a leader that was deposed goes on from where it is */
	assert(!(k == CONTINUE && at[n] > 0));
#endif
	if
	:: k == FULL ->
#ifdef NOFULLSYNC
		if
		:: replid[n] == 0 -> wipe(n)
		:: else
		fi;
#else
		wipe(n);
#endif
		mode[n] = FOLLOWS; replid[n] = 0
	:: k == CONTINUE -> mode[n] = FOLLOWS; replid[n] = 0
	:: else
	fi
}

/* Feed: committed effects, and nothing else */
inline feed(n) {
	for (i : 0 .. W-1) {
		if
		:: i >= at[n] && i < offset[n] -> HOLDS(n, i) = EFFECT(n, i)
		:: else
		fi
	}
	at[n] = offset[n]
}

/* Promote and Declare */
inline promote(n) {
#ifndef UNCONSUMED
	feed(n);
#endif
	mode[n] = PROMOTED; replid[n] = term[n];
	epoch[n] = epochs[n]+1; given[n] = offset[n];
	append(n, DECL(epochs[n], replid[n], offset[n]))
}
#define proposes(n) (leads[n] && hears[n] == term[n])
#define mayPromote(n) (mode[n] == FOLLOWS && proposes(n) && barrier(n) && given[n] <= offset[n])

/* session.pass */
inline pass(n) {
	append(n, CHUNK(epoch[n], given[n], HOLDS(n, given[n])));
	given[n]++;
	release(n)
}
#define mayPass(n) (mode[n] == PROMOTED && proposes(n) && given[n] < at[n])

/* a command's effect, also one whose client is gone */
inline write(n) {
	writes++;
	HOLDS(n, at[n]) = writes;
	at[n]++
}
#define mayWrite(n) (mode[n] == PROMOTED && writes < W && at[n] < W)

#define receives(t) \
	:: d_step { mayTake(me, t) -> take(me, t); skip } \
	:: d_step { hearsFrom(me, t) && (news(t) || learns(me, t)) -> heartbeat(me, t); skip }

/* nodes 1 and 2 begin alike: the first of them to lead is called 1 */
#define named(n) (n != 2 || leader[2] == 1)

proctype node(byte me) {
end:
	do
	:: d_step { mayElect(me, 0) && named(me) -> elect(me, 0); skip }
	:: d_step { mayElect(me, 1) && named(me) -> elect(me, 1); skip }
	:: d_step { mayElect(me, 2) && named(me) -> elect(me, 2); skip }
#ifndef STAYS
	:: d_step { leads[me] -> resign(me); skip }
#endif
	receives(1)
	receives(2)
#if TERMS > 2
	receives(3)
#endif
	:: d_step { mayCommit(me) -> commit(me); skip }
	:: d_step { crashes < CRASHES && mayRestart(me) -> restart(me); skip }
	:: d_step { mayWatch(me) -> watch(me); skip }
	:: d_step { mode[me] == STRAY && mayFollow(me) -> follow(me); skip }
	:: d_step { mayPromote(me) -> promote(me); skip }
	:: d_step { mayWrite(me) -> write(me); skip }
	:: d_step { mayPass(me) -> pass(me); skip }
	:: d_step { mayCollect(me) -> collect(me); skip }
	od
}

init {
	d_step {
		for (i : 0 .. N-1) { REPLID(i, 1) = 1 }
		leads[0] = 1; hears[0] = 1;
		mode[0] = PROMOTED; replid[0] = 1; epoch[0] = 1; open[0] = 1
	}
	atomic { run node(0); run node(1); run node(2) }
}
