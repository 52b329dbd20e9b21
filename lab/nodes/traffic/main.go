// Traffic is both ends of the data plane lab's experiments: the workload on a node and the probes at its client.
//
//	traffic serve PORT...   answers HTTP and TLS requests with its host name and echoes streams, on every port; PORT/udp answers datagrams
//	traffic probe CONFIG    asks until its standard input ends, then prints as JSON what became of every request and stream
//	traffic load CONFIG     asks as fast as it is answered, with so many connections at a time; prints as JSON how many were answered at what cost
//	traffic acks DEVICE VIP PORT PER-SECOND SECONDS   sends TCP packets that belong to no connection; prints how many, and the seconds
//
// It is not a script, so that a machine emulated in software measures the balancer and not its own probes.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	// One processor at a time: the lab's machine has two for all its nodes.
	runtime.GOMAXPROCS(1)
	var err error
	switch {
	case len(os.Args) > 2 && os.Args[1] == "serve":
		err = serve(os.Args[2:])
	case len(os.Args) == 3 && os.Args[1] == "probe":
		err = probe(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "load":
		err = load(os.Args[2])
	case len(os.Args) == 7 && os.Args[1] == "acks":
		err = acks(os.Args[2], os.Args[3], os.Args[4:])
	default:
		err = fmt.Errorf("usage: traffic serve PORT... | probe CONFIG | load CONFIG | acks DEVICE VIP PORT PER-SECOND SECONDS")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}
