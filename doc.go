// Package riffle is an embeddable streaming log with Kafka's semantics: topics,
// partitions and offsets in a directory, inside your process, with no server
// beside it.
//
// A [Log] is an open directory. It has [Topic]s, a topic has [Partition]s, and
// a partition is an ordered sequence of [Record]s, each with an [Offset]:
//
//	db, err := riffle.Open("data", nil)
//	defer db.Close()
//	orders, err := db.EnsureTopic(ctx, "orders", nil)
//	part, err := orders.Partition(0)
//	at, err := part.Append(ctx, riffle.Record{Key: []byte("ann"), Value: []byte("2 tulips")})
//	for rec, err := range part.Records(ctx, riffle.Earliest, nil) {
//	}
//
// # What is guaranteed
//
// A record is committed when it is on stable storage ([FlushBeforeAck], the
// default) or when the operating system has it ([FlushAsync], Kafka's way).
// Append returns when its records are committed; readers see committed records
// only; and what is committed survives a crash of the process, and of the
// machine where it was on stable storage. A batch is appended as a whole or not
// at all.
//
// # Writing and reading
//
// [Partition.Append] and [Partition.Records] are for one partition chosen by hand. A
// [Producer] chooses partitions by key, and gathers records into batches. A
// [Consumer] reads all partitions of its topics, or as a member of a [Group] its share
// of them, and the group remembers how far it got.
//
// A consumer's record is handed out when Poll returns it or a loop over Records gets it,
// and passed when the next Poll, or the next step of the loop, asks for more. What is
// passed is committed every few seconds, when its partition goes to another member, and
// by Close. So a break, an error or a crash never commits the record at hand.
//
// # Memory
//
// What is given to a call is the caller's again when it returns. A [Record] is
// the caller's for good. A [View] is lent until the loop body ends.
//
// # Processes
//
// One process writes a directory. Others read it meanwhile, and follow it, with
// [Options.ReadOnly].
//
// # Contexts
//
// If ctx ends before a write was made, the error is ctx's. If it ends after,
// and before the write was known to be committed, the error is also
// [ErrInDoubt]: the write may be found later, or not.
package riffle
