// One call of a kernel as it comes from stdin, and what goes back over stdout. Every number is
// little-endian; prove.py writes and reads the same.
//
//   call     name: u8 length, bytes | arguments: u8 count, each one of
//            0 none | 1 number f64 | 2 array | 3 list: u32 count, arrays
//   array    u8 bytes of an element, u64 bytes, bytes
//   answer   results: u8 count, u64 each | arrays: all of the call's, as they are now, bytes only
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace driver {

[[noreturn]] inline void give_up(const std::string& why) {
    std::fprintf(stderr, "driver: %s\n", why.c_str());
    std::exit(2);
}

inline void read_exactly(void* to, std::size_t bytes) {
    if (bytes != 0 && std::fread(to, 1, bytes, stdin) != bytes) give_up("the input is cut off");
}

template <typename T>
T read_number() {
    T number;
    read_exactly(&number, sizeof number);
    return number;
}

template <typename T>
void write_number(T number) {
    std::fwrite(&number, 1, sizeof number, stdout);
}

// Bytes in an allocation of exactly their size, so that a sanitizer sees a step beside it. Bytes
// start at an odd address, as payloads in a frame may.
class Array {
  public:
    static Array read() {
        Array array;
        array.shift_ = read_number<std::uint8_t>() == 1 ? 1 : 0;
        array.bytes_ = read_number<std::uint64_t>();
        if (array.bytes_ > (1u << 28)) give_up("an array is too large");
        array.memory_ = std::make_unique<std::uint8_t[]>(array.bytes_ + array.shift_);
        read_exactly(array.data(), array.bytes_);
        return array;
    }

    std::uint8_t* data() const { return memory_.get() + shift_; }
    std::size_t bytes() const { return bytes_; }

    template <typename T>
    T* as() const {
        if (bytes_ % sizeof(T) != 0) give_up("an array does not hold whole elements");
        return reinterpret_cast<T*>(data());
    }

    template <typename T>
    std::size_t count() const {
        return bytes_ / sizeof(T);
    }

    void write() const { std::fwrite(data(), 1, bytes_, stdout); }

  private:
    std::unique_ptr<std::uint8_t[]> memory_;
    std::size_t bytes_ = 0;
    std::size_t shift_ = 0;
};

struct Argument {
    enum Kind : std::uint8_t { none, number, array, list };
    Kind kind = none;
    double value = 0.0;
    std::vector<Array> arrays;

    static Argument read() {
        Argument argument;
        argument.kind = static_cast<Kind>(read_number<std::uint8_t>());
        if (argument.kind == number) argument.value = read_number<double>();
        std::uint32_t count = argument.kind == array ? 1 : 0;
        if (argument.kind == list) count = read_number<std::uint32_t>();
        for (std::uint32_t i = 0; i < count; ++i) argument.arrays.push_back(Array::read());
        return argument;
    }
};

class Call {
  public:
    // False at the end of the input.
    static bool read(Call& call) {
        const int length = std::getchar();
        if (length == EOF) return false;
        call.name.resize(static_cast<std::size_t>(length));
        read_exactly(call.name.data(), call.name.size());
        call.results.clear();
        call.arguments_.clear();
        const auto count = read_number<std::uint8_t>();
        for (int i = 0; i < count; ++i) call.arguments_.push_back(Argument::read());
        return true;
    }

    void answer() const {
        write_number(static_cast<std::uint8_t>(results.size()));
        for (const std::uint64_t result : results) write_number(result);
        for (const Argument& argument : arguments_) {
            for (const Array& array : argument.arrays) array.write();
        }
        std::fflush(stdout);
    }

    void result(double value) {
        std::uint64_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        results.push_back(bits);
    }

    template <typename T>
    T number(std::size_t index) const {
        return static_cast<T>(at(index, Argument::number).value);
    }

    const Array& array(std::size_t index) const { return at(index, Argument::array).arrays[0]; }
    const std::vector<Array>& list(std::size_t index) const {
        return at(index, Argument::list).arrays;
    }

    float* floats(std::size_t index) const { return array(index).as<float>(); }
    std::size_t elements(std::size_t index) const { return array(index).count<float>(); }

    // Null where the call says none.
    float* optional(std::size_t index) const {
        return arguments_.at(index).kind == Argument::none ? nullptr : floats(index);
    }

    std::string name;
    std::vector<std::uint64_t> results;

  private:
    const Argument& at(std::size_t index, Argument::Kind kind) const {
        if (index >= arguments_.size() || arguments_[index].kind != kind) {
            give_up(name + ": wrong argument " + std::to_string(index));
        }
        return arguments_[index];
    }

    std::vector<Argument> arguments_;
};

}  // namespace driver
