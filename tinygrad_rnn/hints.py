"""What to use in place of names from other libraries."""

from __future__ import annotations

from typing import Any

TENSORS = {
    "add_": "x += y within no_grad for a parameter, else x = x + y",
    "allclose": "np.allclose(x.numpy(), y.numpy())",
    "arctan": "sin, cos and tanh are there; any other function is a kernel and a rule, see tg.op",
    "as_tensor": "tensor",
    "associative_scan": "linear_scan",
    "autograd": "tg.grad, tg.jacobian, and tg.op for operations of your own",
    "bernoulli": "rand(*shape) < p",
    "bmm": "matmul, or @",
    "bool": "astype(bool)",
    "cat": "concatenate",
    "chunk": "split",
    "clamp": "clip",
    "clone": "x.detach() shares the array, +x is another Tensor with the same history, tg.tensor(x) copies",
    "compile": "capture",
    "concat": "concatenate",
    "contiguous": "nothing is needed: every operation takes arrays in any order",
    "copy": "x.detach() shares the array, +x is another Tensor with the same history, tg.tensor(x) copies",
    "copy_": "x.data = y.data.copy()",
    "cpu": "to('numpy')",
    "cuda": "to('cupy'), and tg.available_backends()",
    "cumprod": "exp of cumsum of log, or prod of slices",
    "custom_gradient": "tg.op, with a rule for each input, which need not be its derivative",
    "custom_jvp": "tg.op, with a rule for each input, which need not be its derivative",
    "custom_vjp": "tg.op, with a rule for each input, which need not be its derivative",
    "detach": "x.detach(), and bptt.detach(state)",
    "detach_": "x = x.detach()",
    "device": "backend",
    "diag": "x * eye(n), or einsum('ii->i', x)",
    "diagonal": "einsum('ii->i', x)",
    "dim": "ndim",
    "div": "divide, or /",
    "dot": "matmul",
    "double": "astype('float64')",
    "elu": "where(x > 0, x, expm1(where(x > 0, 0, x)))",
    "empty": "zeros",
    "expand": "broadcast_to, of one tuple",
    "expand_as": "broadcast_to(y.shape)",
    "float": "astype('float32')",
    "float32": "np.float32, or 'float32'",
    "float64": "np.float64, or 'float64'",
    "from_numpy": "tensor",
    "func": "tg.grad, tg.vjp, tg.jvp, tg.hvp, tg.jacobian, and nn.functional_call",
    "functional_call": "nn.functional_call",
    "gather": "take_along_axis",
    "gelu": "x * sigmoid(1.702 * x), nearly",
    "get_rng_state": "random_state",
    "grad_fn": "tg.draw, which shows the graph; a repr names the operation",
    "half": "astype('float16')",
    "heaviside": "(x > 0).astype(x.dtype)",
    "hessian": "hvp, or the jacobian of a gradient",
    "hstack": "concatenate, with axis=1 unless they are vectors",
    "index_select": "an index, x[:, numbers]",
    "inference_mode": "no_grad",
    "int": "astype('int64')",
    "int64": "np.int64, or 'int64'",
    "is_cuda": "backend == 'cupy'",
    "is_tensor": "isinstance(x, tg.Tensor)",
    "isclose": "np.isclose(x.numpy(), y.numpy())",
    "jacfwd": "jacobian",
    "jacrev": "jacobian",
    "jit": "capture",
    "leaky_relu": "where(x > 0, x, 0.01 * x)",
    "linalg": "einsum, matmul, and np.linalg for arrays",
    "logical_and": "bitwise_and, or &, of booleans",
    "logical_not": "invert, or ~, of booleans",
    "logical_or": "bitwise_or, or |, of booleans",
    "logsigmoid": "-softplus(-x)",
    "long": "astype('int64')",
    "masked_fill": "where",
    "masked_select": "an index, x[mask]",
    "mm": "matmul, or @",
    "moveaxis": "transpose",
    "movedim": "transpose",
    "mul": "multiply, or *",
    "mul_": "x *= y within no_grad for a parameter, else x = x * y",
    "multinomial": "nn.sample, or the choice of a generator of NumPy's",
    "narrow": "a slice, x[start:stop]",
    "ndimension": "ndim",
    "neg": "negative, or -x",
    "norm": "(x * x).sum().sqrt()",
    "normal": "mean + std * randn(*shape)",
    "numel": "size",
    "one_hot": "eye(n)[x]",
    "permute": "transpose",
    "pow": "power, or **",
    "profiler": "with tg.watching(record.Profile()), and step.profile(...) of a captured step",
    "randint": "tg.tensor(rng.integers(low, high, shape)), with a generator of NumPy's",
    "randn_like": "randn(*x.shape)",
    "randperm": "the permutation of a generator of NumPy's",
    "ravel": "flatten",
    "register_hook": "an operation of tg.op, whose rule gets the gradient; flow.gradient_norms for those of states",
    "repeat_interleave": "repeat",
    "requires_grad_": "x.requires_grad = True",
    "retain_grad": "tg.grad(loss, x) gives the gradient of any x, and flow.gradient_norms those of states",
    "rsqrt": "1 / sqrt(x)",
    "scan": "bptt.unroll",
    "set_default_dtype": "dtype= where tensors are made, and module.to('float64')",
    "set_grad_enabled": "no_grad and enable_grad",
    "set_rng_state": "set_random_state",
    "silu": "x * sigmoid(x)",
    "stop_gradient": "detach",
    "sub": "subtract, or -",
    "t": "T",
    "tensordot": "einsum",
    "topk": "argsort, of which the last ones are the largest",
    "type": "astype",
    "type_as": "astype(y.dtype)",
    "unbind": "iteration: a, b = x",
    "unsqueeze": "expand_dims",
    "value_and_grad": "loss.backward(), or tg.grad(loss, parameters)",
    "view": "reshape",
    "view_as": "reshape(y.shape)",
    "vmap": "an axis for the batch",
    "vstack": "concatenate, or stack if they are vectors",
    "zero_": "x.data = tg.zeros_like(x); for a gradient, x.grad = None",
}
ARGUMENTS = {
    "a_max": "max",
    "a_min": "min",
    "dim": "axis",
    "dims": "axis",
    "keepdim": "keepdims",
}
LAYERS = {
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "BatchNorm1d": "LayerNorm",
    "CTCLoss": "ctc_loss",
    "CrossEntropyLoss": "cross_entropy",
    "Flatten": "lambda x: tg.flatten(x, 1)",
    "HuberLoss": "huber_loss",
    "Identity": "lambda x: x",
    "L1Loss": "abs(x - y).mean()",
    "LogSoftmax": "tg.log_softmax",
    "MSELoss": "mse_loss",
    "ModuleDict": "a dictionary in an attribute: it is searched for modules",
    "NLLLoss": "nll_loss",
    "Parameter": "parameter",
    "ParameterList": "a list in an attribute: it is searched for parameters",
    "ReLU": "tg.relu, which Sequential takes as it is",
    "SiLU": "lambda x: x * tg.sigmoid(x)",
    "Sigmoid": "tg.sigmoid, which Sequential takes as it is",
    "SmoothL1Loss": "huber_loss",
    "Softmax": "tg.softmax",
    "Tanh": "tg.tanh, which Sequential takes as it is",
    "binary_cross_entropy": "binary_cross_entropy_with_logits, of logits",
    "clip_grad_norm_": "tg.clip_grad_norm_",
    "dropout": "tg.dropout",
    "embedding": "tg.embedding",
    "functional": "the functions are here, and those without parameters in tg itself",
    "kl_div": "(p * (p.log() - q.log())).sum()",
    "l1_loss": "abs(x - y).mean()",
    "linear": "tg.linear",
    "log_softmax": "tg.log_softmax",
    "one_hot": "tg.eye(n)[x]",
    "pack_padded_sequence": "nothing is packed: layers take lengths=, and padded pads",
    "pad_packed_sequence": "nothing is packed: layers take lengths=, and padded pads",
    "pad_sequence": "padded, which also returns the lengths",
    "relu": "tg.relu",
    "sigmoid": "tg.sigmoid",
    "silu": "x * tg.sigmoid(x)",
    "smooth_l1_loss": "huber_loss",
    "softmax": "tg.softmax",
    "tanh": "tg.tanh",
    "utils": "tg.clip_grad_norm_ and tg.clip_grad_value_; lengths= in place of packed sequences, and padded",
}
OPTIMISERS = {
    "ChainedScheduler": "LambdaLR with the product of the factors",
    "ConstantLR": "LambdaLR",
    "CosineAnnealingWarmRestarts": "SequentialLR of several CosineAnnealingLR",
    "OneCycleLR": "SequentialLR of LinearLR and CosineAnnealingLR",
    "PolynomialLR": "LambdaLR",
    "add_param_group": "optim.Groups(opt, another), of two optimisers",
    "get_last_lr": "lrs",
    "learning_rate": "lr",
    "lr_scheduler": "the schedules are in optim itself, optim.StepLR",
    "param_groups": "groups, each with settings of its own: opt.groups[0].lr",
}
_OUR_NAMES = "layer.named_parameters() has the names of parameters here, nn.torch_state_dict(layer) those of PyTorch"
MODULES = {
    "add_module": "an attribute that holds the module",
    "apply": "for module in model.modules()",
    "bias_hh_l0": _OUR_NAMES,
    "bias_ih_l0": _OUR_NAMES,
    "children": "modules()",
    "cpu": "to('numpy')",
    "cuda": "to('cupy')",
    "double": "to('float64')",
    "flatten_parameters": "nothing is needed",
    "float": "to('float32')",
    "half": "to('float16')",
    "named_children": "modules()",
    "named_modules": "modules()",
    "register_buffer": "an attribute that holds a Tensor without a gradient: it is saved and moved like a parameter",
    "register_forward_hook": "tg.watching(watcher) sees every operation, and record=True the gates and states",
    "register_parameter": "an attribute that holds nn.parameter(...)",
    "requires_grad_": "for p in known: p.requires_grad = False, with known = list(model.parameters())",
    "weight_hh_l0": _OUR_NAMES,
    "weight_ih_l0": _OUR_NAMES,
}


class Hint:
    """Stands for a missing attribute: accessing it raises, and the error says what to use instead.

    Unlike ``__getattr__``, such a class attribute does not slow down the existing ones.
    """

    def __init__(self, name: str, called: str, cure: str) -> None:
        self.error = name, called, cure

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        raise missing(*self.error)


def hinted(cls: Any, known: dict[str, str], called: str) -> None:
    """Give a class hints for names that it lacks; ``dir`` does not list them."""
    absent = {name for name in known if not hasattr(cls, name)}
    for name in absent:
        setattr(cls, name, Hint(name, called, known[name]))
    cls.__dir__ = lambda self: [name for name in object.__dir__(self) if name not in absent]


def missing(name: str, called: str, cure: str | None) -> AttributeError:
    """The error for a missing name.

    >>> print(missing("cat", "tinygrad_rnn", TENSORS["cat"]))
    tinygrad_rnn has no attribute 'cat'; instead: concatenate
    """
    return AttributeError(f"{called} has no attribute {name!r}" + (f"; instead: {cure}" if cure else ""), name=name)
