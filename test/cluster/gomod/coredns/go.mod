module enodia.dev/cluster/coredns

go 1.26.0

require github.com/coredns/coredns latest
