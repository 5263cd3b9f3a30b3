from fgcli.api import ForwardGradient as ForwardGradient
from fgcli.bench.check_model import CheckedMethod as CheckedMethod
from fgcli.bench.check_model import CheckedModel as CheckedModel
from fgcli.bench.check_model import check_model as check_model
from fgcli.bench.executor import Executor as Executor
from fgcli.bench.executor import Outcome as Outcome
from fgcli.bench.executor import Placement as Placement
from fgcli.bench.executor import PlacesTrials as PlacesTrials
from fgcli.bench.executor import Trial as Trial
from fgcli.data.dataset import Dataset as Dataset
from fgcli.data.dataset import Standardise as Standardise
from fgcli.data.dataset import Tokens as Tokens
from fgcli.errors import FgError as FgError
from fgcli.errors import RunError as RunError
from fgcli.errors import UsageError as UsageError
from fgcli.extend.entry import Entry as Entry
from fgcli.extend.entry import Rank as Rank
from fgcli.extend.hookspecs import CONTRACT as CONTRACT
from fgcli.extend.hookspecs import hookimpl as hookimpl
from fgcli.extend.options import EngineOptions as EngineOptions
from fgcli.extend.options import GuessOptions as GuessOptions
from fgcli.extend.options import Options as Options
from fgcli.extend.options import TangentOptions as TangentOptions
from fgcli.extend.registry import load_registry as load_registry
from fgcli.gradient.engine import GuessEstimator as GuessEstimator
from fgcli.gradient.errors import GuessFault as GuessFault
from fgcli.gradient.errors import LossRefused as LossRefused
from fgcli.gradient.errors import ModelRefused as ModelRefused
from fgcli.gradient.errors import OptionRefused as OptionRefused
from fgcli.gradient.errors import ProcessGone as ProcessGone
from fgcli.gradient.estimator import Batch as Batch
from fgcli.gradient.estimator import Coverage as Coverage
from fgcli.gradient.estimator import Estimate as Estimate
from fgcli.gradient.estimator import Estimator as Estimator
from fgcli.gradient.estimator import FindsFaults as FindsFaults
from fgcli.gradient.estimator import Loss as Loss
from fgcli.gradient.estimator import SettlesOptions as SettlesOptions
from fgcli.gradient.estimator import Splits as Splits
from fgcli.gradient.feedback_rule import FeedbackRule as FeedbackRule
from fgcli.gradient.feedback_rule import Place as Place
from fgcli.gradient.guess import GuessMethod as GuessMethod
from fgcli.gradient.guess import Isotropic as Isotropic
from fgcli.gradient.guess import Layer as Layer
from fgcli.gradient.guess import LinearMap as LinearMap
from fgcli.gradient.guess import Memory as Memory
from fgcli.gradient.guess import Needs as Needs
from fgcli.gradient.guess import SampledGuess as SampledGuess
from fgcli.gradient.look import look as look
from fgcli.gradient.processes import Processes as Processes
from fgcli.gradient.randomness import StepRng as StepRng
from fgcli.gradient.randomness import Streams as Streams
from fgcli.gradient.sites import Network as Network
from fgcli.gradient.sites import Site as Site
from fgcli.gradient.tangents import Tangents as Tangents
from fgcli.gradient.upstream import LinearUpstream as LinearUpstream
from fgcli.gradient.upstream import UpstreamJacobian as UpstreamJacobian
from fgcli.report.compose import read_report as read_report
from fgcli.runs.results import Metrics as Metrics
from fgcli.runs.results import Result as Result
from fgcli.runs.run_directory import RunDirectory as RunDirectory
from fgcli.runs.run_directory import read_run as read_run
from fgcli.training.loading import LoadedModel as LoadedModel
from fgcli.training.loading import load_model as load_model
from fgcli.training.losses import Objective as Objective
from fgcli.training.own_loop import RunLog as RunLog
from fgcli.training.own_loop import open_run as open_run
from fgcli.training.reporter import Plan as Plan
from fgcli.training.sinks import MetricSink as MetricSink

# The public API: each name and the module that it comes from. Type checkers read this file, and so does __init__.py,
# which imports a name when it is first asked for. docs/plugins.md and the reference list the same names.

# A training loop of one's own

# Models, datasets, runs, sweeps and metrics

# Errors

# What a plugin registers

# Guess methods and estimators

__version__: str
